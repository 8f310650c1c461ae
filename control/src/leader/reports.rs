//! What nodes report, gathered for a moment and proposed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::Lead;
use crate::manager::{ControlError, Propose};
use crate::model::*;

/// How long reports are gathered before they are proposed.
const GATHER: Duration = Duration::from_millis(10);

/// One thing that a node said.
pub enum News {
    Node(Box<ReportNode>),
    Tasks {
        node_id: String,
        session: u64,
        reports: Vec<TaskReport>,
    },
}

/// What is proposed for one node, in this order.
#[derive(Default)]
struct Gathered {
    node: Vec<ReportNode>,
    reports: Vec<TaskReport>,
    session: u64,
}

/// Runs while this manager leads.
pub async fn propose(lead: Arc<Lead>) {
    let mut news = lead.news.lock().await;
    loop {
        let mut gathered: BTreeMap<String, Gathered> = BTreeMap::new();
        let Some(first) = news.recv().await else {
            return;
        };
        gather(&mut gathered, first);
        tokio::time::sleep(GATHER).await;
        while let Ok(next) = news.try_recv() {
            gather(&mut gathered, next);
        }
        join_all(
            gathered
                .into_iter()
                .map(|(node_id, gathered)| propose_one(&lead, node_id, gathered)),
        )
        .await;
    }
}

fn gather(gathered: &mut BTreeMap<String, Gathered>, news: News) {
    match news {
        News::Node(report) => gathered.entry(report.id.clone()).or_default().node.push(*report),
        News::Tasks {
            node_id,
            session,
            reports,
        } => {
            let entry = gathered.entry(node_id).or_default();
            entry.reports.extend(reports);
            entry.session = session;
        }
    }
}

async fn propose_one(lead: &Lead, node_id: String, gathered: Gathered) {
    for report in gathered.node {
        if let Err(error) = lead.group.propose(Change::ReportNode(report)).await {
            tracing::warn!(
                node_id,
                error = &error as &dyn std::error::Error,
                "cannot record what a node says of itself"
            );
            lead.dispatcher.drop_session(&node_id);
        }
    }
    if gathered.reports.is_empty() {
        return;
    }
    let report = ReportTasks {
        node_id: node_id.clone(),
        reports: gathered.reports,
    };
    match lead.group.propose(Change::ReportTasks(report)).await {
        Ok(_) => {}
        Err(ControlError::Refused(refused)) => {
            tracing::warn!(
                node_id,
                reason = refused.message,
                "reports of a node were refused"
            );
        }
        Err(error) => {
            // Whether they are in the log is unknown: the node says them again in its next session.
            tracing::warn!(
                node_id,
                error = &error as &dyn std::error::Error,
                "cannot record a node's reports"
            );
            lead.dispatcher.reset(&node_id, gathered.session);
        }
    }
}
