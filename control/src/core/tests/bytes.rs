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

#[test]
fn other_bytes_are_refused() {
    assert!(matches!(decode(&[0xff; 9]), Err(SnapshotError::Decode(_))));
    assert!(matches!(decode(&[]), Err(SnapshotError::Format(0))));
    assert!(matches!(decode(&[8, 2]), Err(SnapshotError::Format(2))));
}
