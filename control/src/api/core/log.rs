//! Lines of a container's log as Docker frames them, and as Swarm passes them on.
//!
//! A frame is one byte of stream (1 standard output, 2 standard error), three of zero, four of length (big-endian) and
//! the payload, which is one line.

use crate::model::Task;

const HEADER: usize = 8;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;

/// What every line is told apart by; keys sorted, as the CLI's parser has them.
pub fn details(task: &Task) -> String {
    format!(
        "com.docker.swarm.node.id={},com.docker.swarm.service.id={},com.docker.swarm.task.id={}",
        task.node_id, task.service_id, task.id
    )
}

/// How lines of one task are written.
#[derive(Clone, Debug)]
pub struct Style {
    /// Empty: none are asked for.
    pub details: String,
    /// Lines begin with a time.
    pub timestamps: bool,
    /// The task has a terminal: one stream, no frames.
    pub tty: bool,
}

/// Turns the Engine's stream to Swarm's, piece by piece.
pub struct Rewriter {
    style: Style,
    rest: Vec<u8>,
}

impl Rewriter {
    pub fn new(style: Style) -> Rewriter {
        Rewriter {
            style,
            rest: Vec::new(),
        }
    }

    /// Takes a piece; answers what is complete.
    pub fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(piece);
        let mut out = Vec::new();
        let mut used = 0;
        while let Some((stream, payload, next)) = self.next(used) {
            self.style.write(stream, payload, &mut out);
            used = next;
        }
        self.rest.drain(..used);
        out
    }

    /// What was left when the stream ended in mid-line.
    pub fn end(self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.style.tty && !self.rest.is_empty() {
            self.style.write(STDOUT, &self.rest, &mut out);
        }
        out
    }

    fn next(&self, from: usize) -> Option<(u8, &[u8], usize)> {
        let rest = &self.rest[from..];
        if self.style.tty {
            let end = rest.iter().position(|byte| *byte == b'\n')? + 1;
            return Some((STDOUT, &rest[..end], from + end));
        }
        let header = rest.get(..HEADER)?;
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let payload = rest.get(HEADER..HEADER + length)?;
        Some((header[0], payload, from + HEADER + length))
    }
}

impl Style {
    /// Writes one line.
    pub fn write(&self, stream: u8, line: &[u8], out: &mut Vec<u8>) {
        let split = line.iter().position(|byte| *byte == b' ').map_or(0, |at| at + 1);
        let (time, text) = line.split_at(if self.timestamps { split } else { 0 });
        let mut payload = time.to_vec();
        if !self.details.is_empty() {
            payload.extend_from_slice(self.details.as_bytes());
            payload.push(b' ');
        }
        payload.extend_from_slice(text);
        if !self.tty {
            out.extend_from_slice(&[stream, 0, 0, 0]);
            out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        }
        out.extend_from_slice(&payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let plain = Style {
            details: String::new(),
            timestamps: false,
            tty: false,
        };
        let mut out = Vec::new();
        plain.write(stream, text.as_bytes(), &mut out);
        out
    }

    fn style(timestamps: bool, tty: bool) -> Style {
        Style {
            details: "a=b".to_string(),
            timestamps,
            tty,
        }
    }

    #[test]
    fn details_stand_after_the_time() {
        let mut rewriter = Rewriter::new(style(true, false));
        let out = rewriter.take(&frame(STDERR, "2026-11-24T06:32:22Z an error\n"));
        assert_eq!(out, frame(STDERR, "2026-11-24T06:32:22Z a=b an error\n"));
    }

    #[test]
    fn a_terminal_has_no_frames() {
        let mut rewriter = Rewriter::new(style(false, true));
        assert_eq!(rewriter.take(b"one\ntw"), b"a=b one\n");
        assert_eq!(rewriter.end(), b"a=b tw");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(lines in prop::collection::vec("[a-z ]{0,20}\n", 0..8), cut in 1usize..40) {
            let stream: Vec<u8> = lines.iter().flat_map(|line| frame(STDOUT, line)).collect();
            let expected: Vec<u8> = lines.iter().flat_map(|line| frame(STDOUT, &format!("a=b {line}"))).collect();
            let mut rewriter = Rewriter::new(style(false, false));
            let got: Vec<u8> = stream.chunks(cut).flat_map(|piece| rewriter.take(piece)).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
