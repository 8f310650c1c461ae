//! Golden bytes: commands and snapshots are on disks and wires. If a test here fails, old logs no longer read.

use prost::Message;

use super::world::*;
use crate::core::snapshot::{SnapshotError, decode, encode};
use crate::model::*;

fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|b| format!("{b:02x}")).collect::<String>();
    bytes.chunks(32).map(line).collect::<Vec<_>>().join("\n")
}

/// A small swarm in which every kind of record stands.
fn swarm() -> World {
    let mut world = World::new();
    world.apply(Change::CreateNode(CreateNode { node: node("n1") }));
    let mut spec = NetworkSpec::default();
    spec.annotations.name = "app".into();
    spec.attachable = true;
    world.apply(Change::CreateNetwork(CreateNetwork {
        id: "app".into(),
        spec,
    }));
    let mut spec = service_spec("web", 2);
    spec.task.networks.push(NetworkAttachmentConfig {
        target: "app".into(),
        aliases: vec!["www".into()],
        ..Default::default()
    });
    let port = PortConfig {
        target_port: 80,
        ..Default::default()
    };
    spec.endpoint.get_or_insert_default().ports.push(port);
    world.apply(Change::CreateService(CreateService {
        id: "web".into(),
        spec,
    }));
    world.apply(Change::CreateAttachment(CreateAttachment {
        id: "a1".into(),
        node_id: "n1".into(),
        network: "app".into(),
        names: vec!["box".into()],
        address: String::new(),
    }));
    world.settle();
    world.report("web.1", TaskState::Failed);
    world.plan();
    world
}

#[test]
fn snapshot_bytes() {
    let world = swarm();
    let bytes = encode(&world.state);
    insta::assert_snapshot!(hex(&bytes));
    assert_eq!(decode(&bytes).unwrap(), world.state);
}

#[test]
fn command_bytes() {
    let lines: Vec<String> = swarm().log.iter().map(|(_, c)| hex(&c.encode_to_vec())).collect();
    insta::assert_snapshot!(lines.join("\n\n"));
}

/// Ingress addresses came later: bytes without them, above, still read.
#[test]
fn ingress_bytes() {
    let mut world = World::new();
    world.apply(Change::CreateNode(CreateNode { node: node("n1") }));
    let start = world.log.len();
    let id = || "a1".to_string();
    let mut spec = IngressAddressSpec {
        address: "192.168.50.100/24".into(),
        interface: "eth1".into(),
        constraints: vec!["node.id==n1".into()],
    };
    world.apply(Change::CreateIngressAddress(CreateIngressAddress {
        id: id(),
        spec: spec.clone(),
    }));
    world.plan();
    let node_id = "n1".to_string();
    world.apply(Change::MoveIngressAddress(MoveIngressAddress {
        id: id(),
        node_id,
    }));
    let description = NodeDescription {
        dsr: Dsr::Dropped as i32,
        dsr_text: "0 of 5".into(),
        ..Default::default()
    };
    world.apply(Change::ReportNode(ReportNode {
        id: "n1".into(),
        description: Some(description),
        ..Default::default()
    }));
    let bytes = encode(&world.state);
    assert_eq!(decode(&bytes).unwrap(), world.state);
    spec.address = "192.168.50.101/24".into();
    world.apply(Change::CreateIngressAddress(CreateIngressAddress {
        id: "a2".into(),
        spec,
    }));
    world.apply(Change::RemoveIngressAddress(RemoveIngressAddress { id: id() }));
    let lines = world.log[start..].iter().map(|(_, c)| c.encode_to_vec());
    let lines: Vec<String> = [bytes].into_iter().chain(lines).map(|l| hex(&l)).collect();
    insta::assert_snapshot!(lines.join("\n\n"));
}

/// An update under way, of a service that says how: it must go on whoever leads, and whatever build does.
#[test]
fn update_bytes() {
    let mut world = World::new();
    world.apply(Change::CreateNode(CreateNode { node: node("n1") }));
    let start = world.log.len();
    let mut spec = service_spec("web", 2);
    let config = UpdateConfig {
        parallelism: 2,
        delay: 3,
        failure_action: FailureAction::Rollback as i32,
        monitor: 4,
        max_failure_ratio: 0.5,
        order: UpdateOrder::StartFirst as i32,
    };
    spec.update = Some(config);
    spec.rollback = Some(UpdateConfig::standard());
    spec.task.container.healthcheck = Some(HealthConfig {
        test: vec!["CMD".into(), "true".into()],
        interval: 1_000_000,
        timeout: 2_000_000,
        retries: 3,
        start_period: 4_000_000,
        start_interval: 5_000_000,
    });
    world.apply(Change::CreateService(CreateService {
        id: "web".into(),
        spec: spec.clone(),
    }));
    world.settle();
    spec.task.force_update = 1;
    let version = world.state.services["web"].meta.version;
    world.apply(Change::UpdateService(UpdateService {
        id: "web".into(),
        version,
        spec,
        rollback: false,
    }));
    world.plan();
    world.obey();
    world.report("web.1", TaskState::Failed);
    world.plan();
    let bytes = encode(&world.state);
    assert_eq!(decode(&bytes).unwrap(), world.state);
    let lines = world.log[start..].iter().map(|(_, c)| c.encode_to_vec());
    let lines: Vec<String> = [bytes].into_iter().chain(lines).map(|l| hex(&l)).collect();
    insta::assert_snapshot!(lines.join("\n\n"));
}

/// Services that have no slots, or whose tasks end.
#[test]
fn mode_bytes() {
    let mut world = World::new();
    world.apply(Change::CreateNode(CreateNode { node: node("n1") }));
    let start = world.log.len();
    let job = ReplicatedJob {
        max_concurrent: 1,
        total_completions: 2,
    };
    let modes = [
        ("all", ServiceMode::Global(GlobalMode {})),
        ("each", ServiceMode::GlobalJob(GlobalJob {})),
        ("work", ServiceMode::ReplicatedJob(job)),
    ];
    for (name, mode) in modes {
        let mut spec = service_spec(name, 0);
        spec.mode = Some(mode);
        let id = name.to_string();
        world.apply(Change::CreateService(CreateService { id, spec }));
    }
    world.settle();
    world.report("work.0", TaskState::Complete);
    world.settle();
    let work = world.state.services["work"].clone();
    world.apply(Change::UpdateService(UpdateService {
        id: "work".into(),
        version: work.meta.version,
        spec: work.spec.clone(),
        rollback: false,
    }));
    world.plan();
    let bytes = encode(&world.state);
    assert_eq!(decode(&bytes).unwrap(), world.state);
    let lines = world.log[start..].iter().map(|(_, c)| c.encode_to_vec());
    let lines: Vec<String> = [bytes].into_iter().chain(lines).map(|l| hex(&l)).collect();
    insta::assert_snapshot!(lines.join("\n\n"));
}

#[test]
fn other_bytes_are_refused() {
    assert!(matches!(decode(&[0xff; 9]), Err(SnapshotError::Decode(_))));
    assert!(matches!(decode(&[]), Err(SnapshotError::Format(0))));
    assert!(matches!(decode(&[8, 2]), Err(SnapshotError::Format(2))));
}
