//! Triggers that suppress rows without an error.

use super::database::Database;

/// A trigger that suppresses rows.
pub(crate) struct Suppression {
    /// `INSERT`, `UPDATE` or `DELETE`.
    pub(crate) operation: &'static str,
    pub(crate) table: &'static str,
    /// The SQL condition for suppressed rows, about `NEW` or `OLD`.
    pub(crate) when: &'static str,
}

impl Suppression {
    /// A suppression of every insertion into this table.
    pub(crate) fn of_inserts(table: &'static str) -> Self {
        Self::of_inserts_when(table, "1 = 1")
    }

    /// A suppression of the insertions that fulfil this condition.
    pub(crate) fn of_inserts_when(table: &'static str, when: &'static str) -> Self {
        Self {
            operation: "INSERT",
            table,
            when,
        }
    }

    /// A suppression of the updates that fulfil this condition.
    pub(crate) fn of_updates_when(table: &'static str, when: &'static str) -> Self {
        Self {
            operation: "UPDATE",
            table,
            when,
        }
    }

    /// A suppression of the deletions that fulfil this condition.
    pub(crate) fn of_deletes_when(table: &'static str, when: &'static str) -> Self {
        Self {
            operation: "DELETE",
            table,
            when,
        }
    }

    /// Creates the trigger.
    pub(crate) async fn start(&self, database: &Database) {
        let Self {
            operation,
            table,
            when,
        } = self;
        let trigger = format!("CREATE TRIGGER suppress_{operation} BEFORE {operation} ON {table}");
        let script = if database.is_postgres() {
            format!(
                "CREATE OR REPLACE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
                 {trigger} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION suppress();"
            )
        } else {
            format!("{trigger} WHEN {when} BEGIN SELECT RAISE(IGNORE); END;")
        };
        database.execute_script(&script).await;
    }

    /// Drops the trigger.
    pub(crate) async fn stop(&self, database: &Database) {
        let Self {
            operation, table, ..
        } = self;
        let on_table = if database.is_postgres() {
            format!(" ON {table}")
        } else {
            String::new()
        };
        let script = format!("DROP TRIGGER suppress_{operation}{on_table}");
        database.execute_script(&script).await;
    }
}
