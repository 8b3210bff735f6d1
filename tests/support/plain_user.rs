//! A user of Postgres with few rights.

use super::database::Database;

/// A user of the database who owns nothing, and may not create tables.
pub(crate) struct PlainUser {
    pub(crate) name: String,
    pub(crate) url: String,
}

impl PlainUser {
    /// Creates a user with the right to connect.
    pub(crate) async fn create(database: &Database) -> Self {
        let (server, name) = database.url.rsplit_once('/').expect("a name");
        let user = format!("plain_{name}");
        let script = format!(
            "CREATE ROLE {user} LOGIN;
             REVOKE CREATE ON SCHEMA public FROM PUBLIC"
        );
        database.execute_script(&script).await;
        let (_, address) = server.rsplit_once('@').expect("a user");
        Self {
            url: format!("postgres://{user}@{address}/{name}"),
            name: user,
        }
    }
}
