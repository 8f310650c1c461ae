//! Waiting for something to become true, never longer than a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `probe` until it gives a value; an error or `None` means not yet. Returns the value and how
/// long it took. At the deadline the error says `what` was waited for and what the last answer was.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<(T, Duration)> {
    let begin = Instant::now();
    loop {
        let last = match probe() {
            Ok(Some(value)) => return Ok((value, begin.elapsed())),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if begin.elapsed() >= deadline {
            match last {
                Some(error) => bail!("{what}: not within {deadline:?}; last: {error:#}"),
                None => bail!("{what}: not within {deadline:?}"),
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_in_the_message() {
        let error = until::<()>("tea", Duration::ZERO, || bail!("water is cold")).unwrap_err();
        assert_eq!(error.to_string(), "tea: not within 0ns; last: water is cold");
    }

    #[test]
    fn the_first_value_ends_the_wait() {
        let mut left = 3;
        let (value, _) = until("countdown", Duration::from_secs(5), || {
            left -= 1;
            Ok((left == 0).then_some("done"))
        })
        .unwrap();
        assert_eq!(value, "done");
    }
}
