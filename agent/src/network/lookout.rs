//! The task that looks for what nobody tells us: a flushed firewall, rules that dockerd made anew. Apart from the
//! keeper, because the commands take as long as a busy machine likes, and a mark must not wait for them.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::network::NetworkError;
use crate::network::io::{iptables, nft, sysctl};

const TICK: Duration = Duration::from_secs(5);

/// What was seen last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The nftables table is not there.
    pub table_is_gone: bool,
    /// What could not be looked at or put right, in words.
    pub problem: Option<String>,
}

/// Runs until it is dropped.
pub async fn run(seen: watch::Sender<Seen>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = look().await;
        // A table that is still gone is told again: the keeper may have failed to make it.
        seen.send_if_modified(|old| {
            let is_news = *old != now || now.table_is_gone;
            *old = now;
            is_news
        });
    }
}

async fn look() -> Seen {
    let (table, rules) = (nft::exists().await, ensure_rules().await);
    let problem = rules.err().map(|error| error.to_string());
    match table {
        Ok(exists) => Seen {
            table_is_gone: !exists,
            problem,
        },
        Err(error) => Seen {
            table_is_gone: false,
            problem: Some(error.to_string()),
        },
    }
}

async fn ensure_rules() -> Result<(), NetworkError> {
    if iptables::ensure().await? && !sysctl::is_forwarding()? {
        sysctl::forward()?;
    }
    Ok(())
}
