//! A connection to the server, and its pool mode.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{
    AssertSqlSafe, Describe, Either, Error, Execute, Executor, PgConnection, PgPool,
    Postgres as Database, SqlStr,
};
use tokio::time::Instant;

use crate::store::session::{GuardedConnection, OperationError};

/// How long a connection keeps its server session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PoolMode {
    /// Until it closes: a direct connection, or a pooler in session mode. Settings and prepared statements stay.
    Session,
    /// Until the end of a transaction. The next one can run in another session, with the settings and the prepared statements of
    /// other clients. So every operation is a transaction, its settings are local, and its statements have no name.
    Transaction,
}

/// A connection from a pool. It is closed when dropped, unless it was released.
#[derive(Debug)]
pub(in crate::store) struct Connection {
    guard: GuardedConnection<Database>,
    mode: PoolMode,
    /// The statements that set the settings of the URL in a transaction of the migrations.
    migration_settings: Option<Arc<str>>,
}

impl Connection {
    pub(super) async fn acquire(pool: &PgPool, mode: PoolMode) -> Result<Self, Error> {
        let guard = GuardedConnection::acquire(pool).await?;
        Ok(Self {
            guard,
            mode,
            migration_settings: None,
        })
    }

    /// Acquires a connection whose transactions begin with `begin_sql` of the migrator, and then with these settings.
    pub(super) async fn acquire_for_migrations(
        pool: &PgPool,
        mode: PoolMode,
        settings: Arc<str>,
    ) -> Result<Self, Error> {
        let mut connection = Self::acquire(pool, mode).await?;
        connection.migration_settings = Some(settings);
        Ok(connection)
    }

    pub(super) fn migration_settings(&self) -> &str {
        self.migration_settings.as_deref().unwrap_or_default()
    }

    /// Returns the connection to its pool. Call it after the work succeeded.
    pub(super) fn release(self) {
        self.guard.release();
    }

    /// Runs work in a transaction that these statements begin. If the work fails, drop the connection.
    pub(super) async fn transact<T>(
        &mut self,
        begin: String,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, OperationError>,
    ) -> Result<T, OperationError> {
        self.execute(AssertSqlSafe(begin)).await?;
        let value = work(self).await?;
        self.execute("COMMIT").await?;
        Ok(value)
    }

    pub(super) fn mode(&self) -> PoolMode {
        self.mode
    }

    pub(super) fn acquired_at(&self) -> Instant {
        self.guard.acquired_at
    }

    /// Returns sqlx's connection, for its migrator. It gives names to its prepared statements.
    pub(super) fn migrator_connection(&mut self) -> &mut PgConnection {
        &mut self.guard.connection
    }
}

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Database;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Database>,
    {
        let statement = Statement::new(query, self.mode);
        self.migrator_connection().fetch_many(statement)
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Database>,
    {
        let statement = Statement::new(query, self.mode);
        self.migrator_connection().fetch_optional(statement)
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        self.migrator_connection().prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Database>, Error>>
    where
        'c: 'e,
    {
        self.migrator_connection().describe(sql)
    }
}

/// A query whose prepared statement has a name only if the session stays.
struct Statement<E> {
    query: E,
    has_name: bool,
}

impl<E> Statement<E> {
    fn new(query: E, mode: PoolMode) -> Self {
        let has_name = mode == PoolMode::Session;
        Self { query, has_name }
    }
}

impl<'q, E: Execute<'q, Database>> Execute<'q, Database> for Statement<E> {
    fn sql(self) -> SqlStr {
        self.query.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.query.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.query.take_arguments()
    }

    /// sqlx gives a name to persistent statements.
    fn persistent(&self) -> bool {
        self.has_name && self.query.persistent()
    }
}
