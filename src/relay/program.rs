//! An endpoint's own program: jq over a message, off the async threads, under a time and a size.
//!
//! A program may run for ever, and nothing can stop it from outside. Whoever asks waits for a while and then leaves it alone; while too
//! many of its runs have not ended, it is not run again.

use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Native, Vars, compile, data, load};
use jaq_json::{Val, read};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How long a program may take for one message, the wait for its turn included. It needs some microseconds; but its threads stand back, and
/// on a machine that has no time for it that can take long. Two of these have room in what is left of a lease beside the call.
const TIME: Duration = Duration::from_secs(5);

/// The most that a program may make of a message.
const MAX_BYTES: usize = 1024 * 1024;

/// How many runs of one program there are at once, those included that were left alone.
const MAX_RUNS: usize = 4;

/// What cannot be had: a message is made of its event and of nothing else.
const DENIED: [&str; 1] = ["env"];

type Filter = compile::Filter<Native<data::JustLut<Val>>>;

/// A program that was found to be one.
pub(super) struct Program {
    filter: Arc<Filter>,
    /// The places of those that run. One that does not end keeps its place.
    runs: Arc<Semaphore>,
}

/// Why a program made nothing of a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failed {
    /// It says so itself. Not in its own words: these may have the message in them.
    #[error("ended with an error")]
    Error,
    /// It takes too long.
    #[error("took longer than {} s", TIME.as_secs())]
    TooLong,
    /// It makes too much.
    #[error("made more than {MAX_BYTES} bytes of it")]
    TooLarge,
    /// It has not come to its end with earlier messages.
    #[error("is not run: it still runs for {MAX_RUNS} messages before")]
    StillRunning,
}

impl Program {
    /// Fails with what is not understood in it.
    pub(super) fn new(code: &str) -> Result<Self, String> {
        Ok(Self {
            filter: Arc::new(compiled(code)?),
            runs: Arc::new(Semaphore::new(MAX_RUNS)),
        })
    }

    /// The first value that it makes of this JSON, as JSON; `None` when it makes none.
    pub(super) async fn run(&self, input: String) -> Result<Option<String>, Failed> {
        let latest = Instant::now() + TIME;
        let place = Arc::clone(&self.runs).acquire_owned();
        let place = tokio::time::timeout_at(latest, place)
            .await
            .map_err(|_| Failed::StillRunning)?
            .expect("nobody closes the semaphore");
        let filter = Arc::clone(&self.filter);
        let mut running = tokio::task::spawn_blocking(move || {
            let _place = place;
            catch_unwind(AssertUnwindSafe(|| first_output(&filter, &input)))
        });
        match tokio::time::timeout_at(latest, &mut running).await {
            Ok(Ok(Ok(output))) => output,
            Ok(Ok(Err(_)) | Err(_)) => Err(Failed::Error),
            Err(_) => {
                // Ends one that has not begun; nothing ends one that has.
                running.abort();
                Err(Failed::TooLong)
            }
        }
    }
}

fn compiled(code: &str) -> Result<Filter, String> {
    let defs = jaq_core::defs()
        .chain(jaq_std::defs())
        .chain(jaq_json::defs());
    let funs = jaq_core::funs()
        .chain(jaq_std::funs())
        .chain(jaq_json::funs())
        .filter(|(name, ..)| !DENIED.contains(name));
    let arena = Arena::default();
    let modules = Loader::new(defs)
        .load(&arena, File { code, path: () })
        .map_err(|errors| {
            let place = errors.iter().find_map(|(_, error)| place(error));
            match place {
                Some("") => "is not understood at its end".to_owned(),
                Some(place) => format!("is not understood at {place:?}"),
                None => "is not understood".to_owned(),
            }
        })?;
    Compiler::default()
        .with_funs(funs)
        .compile(modules)
        .map_err(|errors| {
            let unknown = errors.iter().flat_map(|(_, errors)| errors).next();
            unknown.map_or_else(
                || "is not understood".to_owned(),
                |(name, kind)| format!("names the {} {name:?}, which there is not", kind.as_str()),
            )
        })
}

/// How much of a program is repeated to show where it is not understood.
const PLACE_CHARACTERS: usize = 40;

/// Where the program is not understood.
fn place<'a>(error: &load::Error<&'a str>) -> Option<&'a str> {
    let place: &'a str = match error {
        load::Error::Lex(errors) => errors.first()?.1,
        load::Error::Parse(errors) => errors.first()?.1,
        load::Error::Io(_) => return None,
    };
    let end = place.char_indices().nth(PLACE_CHARACTERS);
    Some(end.map_or(place, |(end, _)| &place[..end]))
}

fn first_output(filter: &Filter, input: &str) -> Result<Option<String>, Failed> {
    let input = read::parse_single(input.as_bytes()).map_err(|_| Failed::Error)?;
    let context = Ctx::<data::JustLut<Val>>::new(&filter.lut, Vars::new([]));
    // `halt` is an exception too, and no reason to end the process, which jaq's own helper would.
    let Some(output) = filter.id.run((context, input)).next() else {
        return Ok(None);
    };
    let output = output.map_err(|_| Failed::Error)?;
    let mut text = Limited(String::new());
    write!(text, "{output}").map_err(|_| Failed::TooLarge)?;
    // jaq writes what JSON has no word for, such as NaN, in words of its own.
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&text.0).is_ok();
    is_json.then_some(Some(text.0)).ok_or(Failed::Error)
}

/// Text up to a size.
struct Limited(String);

impl fmt::Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_BYTES {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(code: &str, input: &str) -> Result<Option<String>, Failed> {
        let program = Program::new(code).expect("it is understood");
        program.run(input.to_owned()).await
    }

    #[tokio::test]
    async fn the_first_value_counts() {
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
    async fn what_fails_fails_alone_and_without_the_message_in_its_words() {
        for code in [
            ".object.secret + {}",
            "error(.)",
            "halt",
            "nan",
            "halt_error",
        ] {
            assert_eq!(
                run(code, r#"{"object":{"secret":"s"}}"#).await,
                Err(Failed::Error),
                "{code}"
            );
        }
    }

    #[tokio::test]
    async fn the_size_is_limited() {
        let code = r#""x" * 2000000"#;
        assert_eq!(run(code, "{}").await, Err(Failed::TooLarge));
    }

    #[test]
    fn a_program_that_does_not_end_is_left_alone_and_then_not_run_again() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let code = "reduce range(1000000000) as $i (0; . + 1)";
        let program = Program::new(code).expect("it is understood");
        let run = || program.run("{}".to_owned());

        let first = runtime.block_on(async { tokio::join!(run(), run(), run(), run()) });
        let fifth = runtime.block_on(run());
        // It would wait for them.
        runtime.shutdown_background();

        let (a, b, c, d) = first;
        assert_eq!([a, b, c, d], [const { Err(Failed::TooLong) }; MAX_RUNS]);
        assert_eq!(fifth, Err(Failed::StillRunning));
    }

    #[test]
    fn what_is_no_program_is_told_with_its_place() {
        for (code, problem) in [
            ("{", "is not understood at its end"),
            (".a |", "is not understood at its end"),
            (".a ))", "is not understood at \"))\""),
            (
                "nothing(1)",
                "names the filter \"nothing\", which there is not",
            ),
            (
                "$secret",
                "names the variable \"$secret\", which there is not",
            ),
            ("env", "names the filter \"env\", which there is not"),
        ] {
            assert_eq!(Program::new(code).err().as_deref(), Some(problem), "{code}");
        }
    }
}
