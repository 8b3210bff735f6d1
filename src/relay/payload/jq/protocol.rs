//! The frames between the service and a worker process. A frame is its length in four bytes and its content.
//!
//! ```text
//! service ──► worker   `when`, `transform` (each may be empty), then one message per frame
//! worker  ──► service  one answer for each program, then one for each message, in order
//! ```

use std::io::{self, Read};

use bytes::{Buf, Bytes, BytesMut};

use super::program::{Failure, MAX_OUTPUT_BYTES, ProgramKey, Verdict};

/// The limit of a message. A worker may need ten times the memory for its values.
pub(super) const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

const LENGTH_BYTES: usize = 4;

/// The limit of an answer: its tag and the largest output.
const MAX_ANSWER_BYTES: usize = 1 + MAX_OUTPUT_BYTES;

/// An answer of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The program is compiled.
    Compiled,
    /// The program cannot be compiled: a description of the problem.
    Invalid(String),
    /// The programs ran on the message.
    Ran(Verdict),
    /// A program failed on the message.
    Failed(ProgramKey, Failure),
}

/// Appends a frame.
pub(super) fn push_frame(buffer: &mut Vec<u8>, content: &[u8]) {
    push_parts(buffer, &[], content);
}

fn push_parts(buffer: &mut Vec<u8>, head: &[u8], body: &[u8]) {
    // Longer contents are refused before.
    let length = u32::try_from(head.len() + body.len()).unwrap_or(u32::MAX);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(head);
    buffer.extend_from_slice(body);
}

/// Reads a frame. Returns `None` at the end of the input.
pub(super) fn read_frame(input: &mut impl Read) -> io::Result<Option<String>> {
    let mut length = [0; LENGTH_BYTES];
    match input.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_le_bytes(length);
    let mut content = String::new();
    let read = input.take(length.into()).read_to_string(&mut content)?;
    let is_whole = u32::try_from(read) == Ok(length);
    Ok(is_whole.then_some(content))
}

/// A worker sent bytes that are no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InvalidAnswer;

/// Removes the first frame of the buffer and returns its answer. Returns `None` if the frame is not complete.
pub(super) fn take_answer(buffer: &mut BytesMut) -> Result<Option<Answer>, InvalidAnswer> {
    let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| InvalidAnswer)?;
    if length > MAX_ANSWER_BYTES {
        return Err(InvalidAnswer);
    }
    if buffer.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    Answer::decode(buffer.split_to(length).freeze()).map(Some)
}

impl Answer {
    /// Appends the answer as a frame.
    pub(super) fn push(&self, buffer: &mut Vec<u8>) {
        let (tag, body): (u8, &[u8]) = match self {
            Self::Compiled => (b'c', b""),
            Self::Invalid(problem) => (b'i', problem.as_bytes()),
            Self::Ran(Verdict::FilteredOut) => (b'f', b""),
            Self::Ran(Verdict::Unchanged) => (b'u', b""),
            Self::Ran(Verdict::Replaced(text)) => (b'r', text.as_bytes()),
            Self::Failed(ProgramKey::When, Failure::Failed) => (b'w', b""),
            Self::Failed(ProgramKey::When, Failure::TooLarge) => (b'W', b""),
            Self::Failed(ProgramKey::Transform, Failure::Failed) => (b't', b""),
            Self::Failed(ProgramKey::Transform, Failure::TooLarge) => (b'T', b""),
        };
        push_parts(buffer, &[tag], body);
    }

    fn decode(mut content: Bytes) -> Result<Self, InvalidAnswer> {
        let tag = content.try_get_u8().map_err(|_| InvalidAnswer)?;
        let text = || String::from_utf8(content.to_vec()).map_err(|_| InvalidAnswer);
        Ok(match tag {
            b'c' => Self::Compiled,
            b'i' => Self::Invalid(text()?),
            b'f' => Self::Ran(Verdict::FilteredOut),
            b'u' => Self::Ran(Verdict::Unchanged),
            b'r' => Self::Ran(Verdict::Replaced(text()?)),
            b'w' => Self::Failed(ProgramKey::When, Failure::Failed),
            b'W' => Self::Failed(ProgramKey::When, Failure::TooLarge),
            b't' => Self::Failed(ProgramKey::Transform, Failure::Failed),
            b'T' => Self::Failed(ProgramKey::Transform, Failure::TooLarge),
            _ => return Err(InvalidAnswer),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Vec<Answer> {
        let mut answers = vec![
            Answer::Compiled,
            Answer::Invalid("syntax error".to_owned()),
            Answer::Ran(Verdict::FilteredOut),
            Answer::Ran(Verdict::Unchanged),
            Answer::Ran(Verdict::Replaced("x".repeat(MAX_OUTPUT_BYTES))),
        ];
        for key in [ProgramKey::When, ProgramKey::Transform] {
            for failure in [Failure::Failed, Failure::TooLarge] {
                answers.push(Answer::Failed(key, failure));
            }
        }
        answers
    }

    #[test]
    fn reads_answers_from_split_input() {
        let mut sent = Vec::new();
        for answer in answers() {
            answer.push(&mut sent);
        }

        let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
        for part in sent.chunks(3) {
            buffer.extend_from_slice(part);
            while let Some(answer) = take_answer(&mut buffer).expect("valid answers") {
                read.push(answer);
            }
        }
        assert_eq!(read, answers());
    }

    #[test]
    fn refuses_invalid_answers() {
        let too_long = u32::try_from(MAX_ANSWER_BYTES + 1).expect("small");
        for sent in [
            &b"\0\0\0\0"[..],
            b"\x01\0\0\0?",
            b"\x02\0\0\0r\xff",
            &too_long.to_le_bytes(),
        ] {
            let mut buffer = BytesMut::from(sent);
            assert_eq!(take_answer(&mut buffer), Err(InvalidAnswer), "{sent:?}");
        }
    }

    #[test]
    fn reads_frames_until_the_input_ends() {
        let mut sent = Vec::new();
        push_frame(&mut sent, b"");
        push_frame(&mut sent, b"message");
        push_frame(&mut sent, b"cut");
        sent.pop();

        let mut input = sent.as_slice();
        let mut next = || read_frame(&mut input).expect("text");
        assert_eq!(next().as_deref(), Some(""));
        assert_eq!(next().as_deref(), Some("message"));
        assert_eq!(next(), None);
        assert_eq!(next(), None);
    }
}
