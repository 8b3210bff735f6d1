//! The jq programs of an endpoint: compiling them, and running them on a message.
//!
//! Only the worker process and the fuzzer use this file. A program can overflow the stack or use up the memory, while it is
//! compiled and while it runs.

use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Native, Vars, compile, data, load};
use jaq_json::{Val, read};

/// The limit of a program's output. The parent process also checks it.
pub(super) const MAX_OUTPUT_BYTES: usize = 1024 * 1024;

/// The jq functions that programs cannot use. They would make a message depend on more than its event.
const DENIED_FUNCTIONS: [&str; 1] = ["env"];

/// The maximum length of the excerpt in a syntax error.
const EXCERPT_CHARACTERS: usize = 40;

/// A setting of an endpoint that has a jq program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramKey {
    /// The program that decides whether an event is sent.
    When,
    /// The program that replaces the message.
    Transform,
}

impl ProgramKey {
    /// Returns the name of the setting.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::When => "when",
            Self::Transform => "transform",
        }
    }
}

/// The compiled programs of an endpoint.
#[derive(Default)]
pub struct Programs {
    when: Option<Program>,
    transform: Option<Program>,
}

/// The result of running the programs on a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// `when` or `transform` filtered out the event.
    FilteredOut,
    /// The message stays as it is.
    Unchanged,
    /// The JSON that replaces the message.
    Replaced(String),
}

/// The reason why a program failed on a message. It does not quote the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The run failed, or its output was not JSON.
    Failed,
    /// The output was too long.
    TooLarge,
}

impl Programs {
    /// Compiles a program and adds it. An empty text is no program. The error is a short description of the first problem.
    pub fn add(&mut self, key: ProgramKey, code: &str) -> Result<(), String> {
        if !code.trim().is_empty() {
            let program = Some(Program::compile(code)?);
            match key {
                ProgramKey::When => self.when = program,
                ProgramKey::Transform => self.transform = program,
            }
        }
        Ok(())
    }

    /// Runs the programs on a JSON text. An error names the program that failed.
    pub fn run(&self, message: &str) -> Result<Verdict, (ProgramKey, Failure)> {
        let first = if self.when.is_some() {
            ProgramKey::When
        } else {
            ProgramKey::Transform
        };
        let message =
            read::parse_single(message.as_bytes()).map_err(|_| (first, Failure::Failed))?;
        if let Some(when) = &self.when {
            let output = when.first_output(message.clone());
            // In jq, every value except `false` and `null` is true.
            match output.map_err(|failure| (ProgramKey::When, failure))? {
                None | Some(Val::Null | Val::Bool(false)) => return Ok(Verdict::FilteredOut),
                Some(_) => {}
            }
        }
        let Some(transform) = &self.transform else {
            return Ok(Verdict::Unchanged);
        };
        let replaced = transform.first_output(message).and_then(|output| {
            output.map_or(Ok(Verdict::FilteredOut), |value| {
                to_json(&value).map(Verdict::Replaced)
            })
        });
        replaced.map_err(|failure| (ProgramKey::Transform, failure))
    }
}

/// A compiled program.
struct Program(compile::Filter<Native<data::JustLut<Val>>>);

impl Program {
    fn compile(code: &str) -> Result<Self, String> {
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
        let filter = Compiler::default()
            .with_funs(funs)
            .compile(modules)
            .map_err(|errors| {
                let unknown = errors.iter().flat_map(|(_, errors)| errors).next();
                unknown.map_or_else(
                    || "syntax error".to_owned(),
                    |(name, kind)| format!("unknown {} {name:?}", kind.as_str()),
                )
            })?;
        Ok(Self(filter))
    }

    /// Returns the first output. `None` if there is no output.
    fn first_output(&self, input: Val) -> Result<Option<Val>, Failure> {
        let run = || {
            let context = Ctx::<data::JustLut<Val>>::new(&self.0.lut, Vars::new([]));
            // jaq's own helper ends the process on `halt`. Here `halt` is an error like any other.
            let output = self.0.id.run((context, input)).next();
            output.transpose().map_err(|_| Failure::Failed)
        };
        // A panic is no reason to start a new process.
        catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(Failure::Failed))
    }
}

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

fn to_json(value: &Val) -> Result<String, Failure> {
    let mut text = CappedWriter(String::new());
    write!(text, "{value}").map_err(|_| Failure::TooLarge)?;
    // jaq prints values that JSON does not have, such as NaN, in its own notation.
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&text.0).is_ok();
    is_json.then_some(text.0).ok_or(Failure::Failed)
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

    fn run(when: &str, transform: &str, input: &str) -> Result<Verdict, (ProgramKey, Failure)> {
        let mut programs = Programs::default();
        for (key, code) in [(ProgramKey::When, when), (ProgramKey::Transform, transform)] {
            programs.add(key, code).expect("a valid program");
        }
        programs.run(input)
    }

    #[test]
    fn returns_the_first_output() {
        let input = r#"{"object":{"status":"uploaded","id":7}}"#;
        for (code, output) in [
            (
                r#"{type: "image_\(.object.status)"}"#,
                Verdict::Replaced(r#"{"type":"image_uploaded"}"#.to_owned()),
            ),
            (".object.id, 1", Verdict::Replaced("7".to_owned())),
            ("empty", Verdict::FilteredOut),
            (
                r#".object.status | test("^up")"#,
                Verdict::Replaced("true".to_owned()),
            ),
        ] {
            assert_eq!(run("", code, input), Ok(output), "{code}");
        }
    }

    #[test]
    fn condition_is_false_only_for_false_and_null() {
        for (code, verdict) in [
            (".n == 1", Verdict::Unchanged),
            ("0", Verdict::Unchanged),
            (".n == 2", Verdict::FilteredOut),
            (".missing", Verdict::FilteredOut),
            ("empty", Verdict::FilteredOut),
        ] {
            assert_eq!(run(code, "", r#"{"n":1}"#), Ok(verdict), "{code}");
        }
    }

    #[test]
    fn errors_do_not_quote_the_message() {
        for code in [
            ".object.secret + {}",
            "error(.)",
            "halt",
            "nan",
            "halt_error",
        ] {
            assert_eq!(
                run("", code, r#"{"object":{"secret":"s"}}"#),
                Err((ProgramKey::Transform, Failure::Failed)),
                "{code}"
            );
        }
        assert_eq!(
            run("error(.)", ".", "{}"),
            Err((ProgramKey::When, Failure::Failed))
        );
    }

    #[test]
    fn limits_the_output_size() {
        let code = r#""x" * 2000000"#;
        assert_eq!(
            run("", code, "{}"),
            Err((ProgramKey::Transform, Failure::TooLarge))
        );
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
                Programs::default().add(ProgramKey::When, code).err(),
                Some(problem.to_owned()),
                "{code}"
            );
        }
    }
}
