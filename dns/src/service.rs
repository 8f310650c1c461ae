//! One query from bytes to bytes: the table first, then (if it is not ours) upstream.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hickory_proto::op::ResponseCode;
use tokio::sync::watch;
use tracing::debug;

use crate::core::message::{Request, Step, Transport, respond};
use crate::io::upstream::{Admission, Upstream};
use crate::table::Table;

/// What both listeners share.
#[derive(Debug)]
pub struct Service {
    table: watch::Receiver<Arc<Table>>,
    upstream: Arc<Upstream>,
    turn: AtomicU64,
}

/// The outcome of the part that never waits.
#[derive(Debug)]
pub enum First {
    Nothing,
    Reply(Vec<u8>),
    /// Upstream has to be asked, which takes time: finish it in a task of its own.
    Pending(Box<Pending>),
}

/// A query with its place among the questions that are asked upstream.
#[derive(Debug)]
pub struct Pending {
    request: Request,
    upstream: Arc<Upstream>,
    // Held for its drop, which gives the place back.
    _admission: Admission,
}

impl Service {
    pub fn new(table: watch::Receiver<Arc<Table>>, upstream: Upstream) -> Self {
        Self {
            table,
            upstream: Arc::new(upstream),
            turn: AtomicU64::new(0),
        }
    }

    /// Answers what can be answered at once. A question for upstream that finds all places taken is
    /// answered SERVFAIL: the client's resolver tries again, and nothing piles up here.
    pub fn begin(&self, client: IpAddr, bytes: &[u8], transport: Transport) -> First {
        let table = self.table.borrow().clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let request = match respond(&table, client, bytes, transport, turn) {
            Step::Ignore => return First::Nothing,
            Step::Reply(reply) => return First::Reply(reply),
            Step::Forward(request) => request,
        };
        if let Some(kept) = self.upstream.cached(&request) {
            return First::Reply(request.relay(&kept));
        }
        let Some(admission) = self.upstream.admit(client) else {
            debug!(%client, "query refused: too many questions upstream");
            return First::Reply(request.refuse(ResponseCode::ServFail));
        };
        First::Pending(Box::new(Pending {
            request,
            upstream: Arc::clone(&self.upstream),
            _admission: admission,
        }))
    }
}

impl Pending {
    /// Asks upstream; ends within [`crate::io::upstream::DEADLINE`].
    pub async fn finish(self) -> Vec<u8> {
        match self.upstream.resolve(&self.request).await {
            Ok(message) => self.request.relay(&message),
            Err(error) => {
                debug!(%error, "forwarding failed");
                self.request.refuse(ResponseCode::ServFail)
            }
        }
    }
}
