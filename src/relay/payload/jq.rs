//! jq programs from the settings, run on a message with limits for time and output size.
//!
//! A jq program may run forever, and a run cannot be interrupted. The caller stops waiting after
//! the time limit. While too many runs of a program have not ended, further
//! runs wait, and fail after the same limit.

use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Native, Vars, compile, data, load};
use jaq_json::{Val, read};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The time limit for one message, including the wait for a permit. A run takes microseconds, but its thread has low priority
/// and a busy machine may delay it. A lease has time for two such runs in addition to the call.
const TIME_LIMIT: Duration = Duration::from_secs(5);

const MAX_OUTPUT_BYTES: usize = 1024 * 1024;

/// The limit of concurrent runs of one program, including abandoned ones.
const MAX_CONCURRENT_RUNS: usize = 4;

/// The jq functions that programs cannot use. They would make a message depend on more than its event.
const DENIED_FUNCTIONS: [&str; 1] = ["env"];

type Filter = compile::Filter<Native<data::JustLut<Val>>>;

/// A compiled jq program.
pub(super) struct JqProgram {
    filter: Arc<Filter>,
    /// One permit per concurrent run. A run that does not end keeps its permit.
    permits: Arc<Semaphore>,
}

/// A failed run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::relay) enum JqError {
    /// The run failed, or its output was not JSON. The text of the error is dropped, because it can quote the message.
    #[error("ended with an error")]
    Failed,
    #[error("took longer than {} s", TIME_LIMIT.as_secs())]
    TooLong,
    #[error("produced more than {MAX_OUTPUT_BYTES} bytes")]
    TooLarge,
    /// Too many earlier runs have not ended.
    #[error("was skipped because {MAX_CONCURRENT_RUNS} earlier runs have not finished")]
    StillRunning,
}

impl JqProgram {
    /// Compiles a program. The error is a short description of the first problem.
    pub(super) fn compile(code: &str) -> Result<Self, String> {
        Ok(Self {
            filter: Arc::new(compile(code)?),
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_RUNS)),
        })
    }

    /// Runs the program on a JSON text and returns its first output as JSON. `None` if the program has no output.
    pub(super) async fn run(&self, input: String) -> Result<Option<String>, JqError> {
        let deadline = Instant::now() + TIME_LIMIT;
        let permit = Arc::clone(&self.permits).acquire_owned();
        let permit = tokio::time::timeout_at(deadline, permit)
            .await
            .map_err(|_| JqError::StillRunning)?
            .expect("the semaphore is never closed");
        let filter = Arc::clone(&self.filter);
        let mut running = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            catch_unwind(AssertUnwindSafe(|| first_output(&filter, &input)))
        });
        match tokio::time::timeout_at(deadline, &mut running).await {
            Ok(Ok(Ok(output))) => output,
            Ok(Ok(Err(_)) | Err(_)) => Err(JqError::Failed),
            Err(_) => {
                // Cancels a run that has not started. A started run cannot be cancelled.
                running.abort();
                Err(JqError::TooLong)
            }
        }
    }
}

fn compile(code: &str) -> Result<Filter, String> {
    let defs = jaq_core::defs()
        .chain(jaq_std::defs())
        .chain(jaq_json::defs());
    let funs = jaq_core::funs()
        .chain(jaq_std::funs())
        .chain(jaq_json::funs())
        .filter(|(name, ..)| !DENIED_FUNCTIONS.contains(name));
    let arena = Arena::default();
    let modules = Loader::new(defs)
        .load(&arena, File { code, path: () })
        .map_err(|errors| {
            let excerpt = errors.iter().find_map(|(_, error)| error_excerpt(error));
            match excerpt {
                Some("") => "syntax error at its end".to_owned(),
                Some(excerpt) => format!("syntax error at {excerpt:?}"),
                None => "syntax error".to_owned(),
            }
        })?;
    Compiler::default()
        .with_funs(funs)
        .compile(modules)
        .map_err(|errors| {
            let unknown = errors.iter().flat_map(|(_, errors)| errors).next();
            unknown.map_or_else(
                || "syntax error".to_owned(),
                |(name, kind)| format!("unknown {} {name:?}", kind.as_str()),
            )
        })
}

/// The maximum length of the excerpt in a syntax error.
const EXCERPT_CHARACTERS: usize = 40;

/// Returns the start of the code that has a syntax error.
fn error_excerpt<'a>(error: &load::Error<&'a str>) -> Option<&'a str> {
    let code: &'a str = match error {
        load::Error::Lex(errors) => errors.first()?.1,
        load::Error::Parse(errors) => errors.first()?.1,
        load::Error::Io(_) => return None,
    };
    let end = code.char_indices().nth(EXCERPT_CHARACTERS);
    Some(end.map_or(code, |(end, _)| &code[..end]))
}

fn first_output(filter: &Filter, input: &str) -> Result<Option<String>, JqError> {
    let input = read::parse_single(input.as_bytes()).map_err(|_| JqError::Failed)?;
    let context = Ctx::<data::JustLut<Val>>::new(&filter.lut, Vars::new([]));
    // jaq's own helper ends the process on `halt`. Here `halt` is an error like any other.
    let Some(output) = filter.id.run((context, input)).next() else {
        return Ok(None);
    };
    let output = output.map_err(|_| JqError::Failed)?;
    let mut text = CappedWriter(String::new());
    write!(text, "{output}").map_err(|_| JqError::TooLarge)?;
    // jaq prints values that JSON does not have, such as NaN, in its own notation.
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&text.0).is_ok();
    is_json.then_some(Some(text.0)).ok_or(JqError::Failed)
}

/// A writer that accepts at most [`MAX_OUTPUT_BYTES`].
struct CappedWriter(String);

impl fmt::Write for CappedWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_OUTPUT_BYTES {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(code: &str, input: &str) -> Result<Option<String>, JqError> {
        let program = JqProgram::compile(code).expect("a valid program");
        program.run(input.to_owned()).await
    }

    #[tokio::test]
    async fn returns_the_first_output() {
        let input = r#"{"object":{"status":"uploaded","id":7}}"#;
        for (code, output) in [
            (
                r#"{type: "image_\(.object.status)"}"#,
                Some(r#"{"type":"image_uploaded"}"#),
            ),
            (".object.id, 1", Some("7")),
            ("empty", None),
            (r#".object.status | test("^up")"#, Some("true")),
        ] {
            assert_eq!(
                run(code, input).await,
                Ok(output.map(str::to_owned)),
                "{code}"
            );
        }
    }

    #[tokio::test]
    async fn errors_do_not_quote_the_message() {
        for code in [
            ".object.secret + {}",
            "error(.)",
            "halt",
            "nan",
            "halt_error",
        ] {
            assert_eq!(
                run(code, r#"{"object":{"secret":"s"}}"#).await,
                Err(JqError::Failed),
                "{code}"
            );
        }
    }

    #[tokio::test]
    async fn limits_the_output_size() {
        let code = r#""x" * 2000000"#;
        assert_eq!(run(code, "{}").await, Err(JqError::TooLarge));
    }

    #[test]
    fn abandons_endless_runs_and_skips_more() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let code = "reduce range(1000000000) as $i (0; . + 1)";
        let program = JqProgram::compile(code).expect("a valid program");
        let run = || program.run("{}".to_owned());

        let first = runtime.block_on(async { tokio::join!(run(), run(), run(), run()) });
        let fifth = runtime.block_on(run());
        // A plain drop would wait for the endless runs.
        runtime.shutdown_background();

        let (a, b, c, d) = first;
        assert_eq!(
            [a, b, c, d],
            [const { Err(JqError::TooLong) }; MAX_CONCURRENT_RUNS]
        );
        assert_eq!(fifth, Err(JqError::StillRunning));
    }

    #[test]
    fn syntax_errors_quote_the_code() {
        for (code, problem) in [
            ("{", "syntax error at its end"),
            (".a |", "syntax error at its end"),
            (".a ))", "syntax error at \"))\""),
            ("nothing(1)", "unknown filter \"nothing\""),
            ("$secret", "unknown variable \"$secret\""),
            ("env", "unknown filter \"env\""),
        ] {
            assert_eq!(
                JqProgram::compile(code).err().as_deref(),
                Some(problem),
                "{code}"
            );
        }
    }
}
