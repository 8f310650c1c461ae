//! Lines of a container's log as Docker frames them, and as Swarm passes them on.
//!
//! A frame is one byte of stream (1 standard output, 2 standard error), three of zero, four of length (big-endian) and
//! the payload, which is one line.

use crate::model::Task;

const HEADER: usize = 8;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
/// A message of the server itself: clients end with it as their error.
pub const SYSTEM_ERROR: u8 = 3;
/// Most bytes of a terminal's line that are kept until its end comes.
const LINE: usize = 64 << 10;

/// What every line is told apart by, as `key=value`.
pub fn details(task: &Task) -> Vec<String> {
    vec![
        format!("com.docker.swarm.node.id={}", task.node_id),
        format!("com.docker.swarm.service.id={}", task.service_id),
        format!("com.docker.swarm.task.id={}", task.id),
    ]
}

/// How lines of one task are written.
#[derive(Clone, Debug)]
pub struct Style {
    /// Empty: none are asked for. Else a line of the Engine begins with those of its own, which may be none.
    pub details: Vec<String>,
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
        if self.style.tty && self.style.details.is_empty() {
            // A prompt has no end of line.
            return piece.to_vec();
        }
        self.rest.extend_from_slice(piece);
        let mut out = Vec::new();
        let mut used = 0;
        while let Some((stream, payload, next)) = self.next(used) {
            self.style.rewrite(stream, payload, &mut out);
            used = next;
        }
        self.rest.drain(..used);
        out
    }

    /// What was left when the stream ended in mid-line.
    pub fn end(self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.style.tty && !self.rest.is_empty() {
            self.style.rewrite(STDOUT, &self.rest, &mut out);
        }
        out
    }

    fn next(&self, from: usize) -> Option<(u8, &[u8], usize)> {
        let rest = &self.rest[from..];
        if self.style.tty {
            let end = match rest.iter().position(|byte| *byte == b'\n') {
                Some(at) => at + 1,
                None if rest.len() >= LINE => rest.len(),
                None => return None,
            };
            return Some((STDOUT, &rest[..end], from + end));
        }
        let header = rest.get(..HEADER)?;
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let payload = rest.get(HEADER..HEADER + length)?;
        Some((header[0], payload, from + HEADER + length))
    }
}

impl Style {
    /// Writes one line of the Engine: `[time ][details ]text`.
    fn rewrite(&self, stream: u8, line: &[u8], out: &mut Vec<u8>) {
        let (time, line) = word(line, self.timestamps);
        let (own, text) = word(line, !self.details.is_empty());
        let mut payload = time.to_vec();
        if !self.details.is_empty() {
            let own = String::from_utf8_lossy(own);
            let key = |pair: &str| pair.split('=').next().unwrap_or_default().to_string();
            let ours: Vec<String> = self.details.iter().map(|pair| key(pair)).collect();
            // The swarm has the last word on its own keys.
            let own = own
                .trim_end()
                .split(',')
                .filter(|pair| !pair.is_empty() && !ours.contains(&key(pair)));
            let mut pairs: Vec<&str> = own.chain(self.details.iter().map(String::as_str)).collect();
            pairs.sort_unstable();
            payload.extend_from_slice(pairs.join(",").as_bytes());
            payload.push(b' ');
        }
        payload.extend_from_slice(text);
        self.frame(stream, &payload, out);
    }

    /// Writes one line that is not the Engine's.
    pub fn write(&self, stream: u8, text: &[u8], out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        if !self.details.is_empty() {
            payload.extend_from_slice(self.details.join(",").as_bytes());
            payload.push(b' ');
        }
        payload.extend_from_slice(text);
        self.frame(stream, &payload, out);
    }

    fn frame(&self, stream: u8, payload: &[u8], out: &mut Vec<u8>) {
        if !self.tty {
            out.extend_from_slice(&[stream, 0, 0, 0]);
            out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        }
        out.extend_from_slice(payload);
    }
}

/// Splits the first word off, space included, if there is one to split.
fn word(line: &[u8], is_there: bool) -> (&[u8], &[u8]) {
    let end = line.iter().position(|byte| *byte == b' ').map_or(0, |at| at + 1);
    line.split_at(if is_there { end } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let plain = Style {
            details: Vec::new(),
            timestamps: false,
            tty: false,
        };
        let mut out = Vec::new();
        plain.write(stream, text.as_bytes(), &mut out);
        out
    }

    fn style(timestamps: bool, tty: bool) -> Style {
        Style {
            details: vec!["b=c".to_string()],
            timestamps,
            tty,
        }
    }

    #[test]
    fn details_stand_after_the_time() {
        let mut rewriter = Rewriter::new(style(true, false));
        let out = rewriter.take(&frame(STDERR, "2026-11-24T06:32:22Z  an error\n"));
        assert_eq!(out, frame(STDERR, "2026-11-24T06:32:22Z b=c an error\n"));
        let mut rewriter = Rewriter::new(style(true, false));
        let out = rewriter.take(&frame(STDERR, "2026-11-24T06:32:22Z b=x,label=1 an error\n"));
        assert_eq!(out, frame(STDERR, "2026-11-24T06:32:22Z b=c,label=1 an error\n"));
    }

    #[test]
    fn a_terminal_has_no_frames() {
        let mut rewriter = Rewriter::new(style(false, true));
        assert_eq!(rewriter.take(b" one\n tw"), b"b=c one\n");
        assert_eq!(rewriter.end(), b"b=c tw");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(lines in prop::collection::vec("[a-z ]{0,20}\n", 0..8), cut in 1usize..40) {
            let stream: Vec<u8> = lines.iter().flat_map(|line| frame(STDOUT, &format!(" {line}"))).collect();
            let expected: Vec<u8> = lines.iter().flat_map(|line| frame(STDOUT, &format!("b=c {line}"))).collect();
            let mut rewriter = Rewriter::new(style(false, false));
            let got: Vec<u8> = stream.chunks(cut).flat_map(|piece| rewriter.take(piece)).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
