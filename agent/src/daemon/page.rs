//! `GET /skep/...`: what the `skep` command shows of this node.

use serde_json::{Value, json};
use skep_control::model::{ItemKind, TaskState};
use skep_ebpf_loader::TableUsage;

use super::{Daemon, State, managers};
use crate::ingress::core::shown::shown;
use crate::member::View;
use crate::reconciler::chain;

/// `None` = no such page.
pub async fn page(daemon: &Daemon, path: &str) -> Option<Value> {
    match path.trim_matches('/') {
        "status" => Some(status(daemon).await),
        "net/drops" => Some(drops(daemon).await),
        "net/flows" => Some(flows(daemon).await),
        "ingress" => Some(ingress(daemon)),
        _ => None,
    }
}

async fn status(daemon: &Daemon) -> Value {
    let engine = match daemon.common.engine.info().await {
        Ok(info) => json!({"version": info.description.engine_version}),
        Err(failure) => json!({"error": chain(&failure)}),
    };
    let state = daemon.state.borrow().clone();
    let membership = match &state {
        State::Inactive => json!({"state": "inactive"}),
        State::Locked(node_id) => json!({"state": "locked", "node_id": node_id}),
        State::Pending(failure) => json!({"state": "pending", "error": failure}),
        State::Member(view) => member(view),
    };
    json!({"version": env!("CARGO_PKG_VERSION"), "engine": engine, "swarm": membership})
}

fn member(view: &View) -> Value {
    let desired = view.desired.borrow().clone();
    let link = view.link.borrow().clone();
    let network = view.network.borrow().clone();
    let leader = view.manager().and_then(|m| m.leader().borrow().clone());
    let peers = desired.items.values().filter_map(|item| match &item.kind {
        Some(ItemKind::Peer(p)) => {
            Some(json!({"id": p.node_id, "hostname": p.hostname, "address": p.underlay, "index": p.index, "ready": p.ready}))
        }
        _ => None,
    });
    json!({
        "state": "active",
        "role": if view.manager().is_some() { "manager" } else { "worker" },
        "node_id": view.node_id,
        "cluster_id": view.cluster_id,
        "address": view.address,
        "leader": leader.map(|l| l.address),
        "session": {"manager": link.manager, "error": link.last_error},
        "managers": managers(view).into_iter().map(|(_, address)| address).collect::<Vec<_>>(),
        "assignments": {"index": desired.index, "complete": desired.complete, "items": desired.items.len()},
        "network": {
            "applied": network.as_ref().map(|n| *n.applied().borrow()),
            "error": view.network_error.borrow().clone(),
            "problems": network.as_ref().map(|n| n.problems().borrow().clone()).unwrap_or_default(),
        },
        "nodes": peers.collect::<Vec<_>>(),
        "tasks": tasks(view),
    })
}

fn tasks(view: &View) -> Vec<Value> {
    let desired = view.desired.borrow().clone();
    let statuses = view.statuses.borrow().clone();
    let name = |state: i32| {
        TaskState::try_from(state)
            .map(|s| format!("{s:?}").to_lowercase())
            .unwrap_or_default()
    };
    let row = |task: &skep_control::model::TaskItem| {
        let said = statuses.get(&task.id);
        let state = said.map_or(0, |s| s.state).max(task.observed_state);
        json!({
            "id": task.id,
            "name": format!("{}.{}", task.service.name, task.place(&view.node_id)),
            "desired": name(task.desired_state),
            "state": name(state),
            "error": said.map(|s| s.err.clone()).unwrap_or_default(),
        })
    };
    desired.tasks().values().map(|task| row(task)).collect()
}

fn ingress(daemon: &Daemon) -> Value {
    let Some(view) = daemon.view() else {
        return json!({"addresses": []});
    };
    let items = view.desired.borrow().items.clone();
    let network = view.network.borrow().clone();
    let (grounds, held) = network
        .map(|network| (network.grounds(), network.held().borrow().clone()))
        .unwrap_or_default();
    json!({"addresses": shown(&items, &grounds.places, &held)})
}

async fn drops(daemon: &Daemon) -> Value {
    let network = daemon.view().and_then(|view| view.network.borrow().clone());
    let Some(network) = network else {
        return json!({"drops": [], "error": "the network of this node is not up"});
    };
    match network.drops().await {
        Ok(drops) => {
            let row = |(reason, packets): (skep_ebpf_loader::DropReason, u64)| json!({"reason": format!("{reason:?}"), "packets": packets});
            json!({"drops": drops.into_iter().map(row).collect::<Vec<_>>()})
        }
        Err(failure) => json!({"drops": [], "error": chain(&failure)}),
    }
}

async fn flows(daemon: &Daemon) -> Value {
    let network = daemon.view().and_then(|view| view.network.borrow().clone());
    let Some(network) = network else {
        return json!({"tables": [], "error": "the network of this node is not up"});
    };
    let row = |name: &str, table: TableUsage| json!({"table": name, "used": table.used, "limit": table.limit, "bytes": table.bytes});
    match network.flow_usage().await {
        Ok(usage) => {
            json!({"tables": [row("established", usage.established), row("half-open", usage.half_open)]})
        }
        Err(failure) => json!({"tables": [], "error": chain(&failure)}),
    }
}
