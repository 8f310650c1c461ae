//! Agents that end, start again, are upgraded, or change how they attach programs, under traffic on all paths: no packet is
//! lost that a run without any of it does not lose.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use skep_ebpf_loader::*;

use crate::lab::{Lab, Node, node_address};
use crate::peers::*;
use crate::traffic::{Load, Lost, Route, capacity, serve};

/// What is called by a VIP or a published port, and what is called by its own address: the same port of one client towards
/// both would be one flow to the task.
const SERVICE: u16 = 7;
const DIRECT: u16 = 8;
const HERE: u16 = 7001;
const ELSEWHERE: u16 = 7002;
const VIP: u8 = 2;
/// One at a time: they need what the machine has.
static TURN: Mutex<()> = Mutex::new(());
/// Before, between and after what happens.
const PAUSE: Duration = Duration::from_millis(300);

fn published(port: u16, protocol: Protocol, task: u8, node: u32) -> PublishedEntry {
    PublishedEntry {
        protocol,
        published_port: port,
        target_port: SERVICE,
        seed: 42,
        rows_log2: 8,
        algorithm: rows::ALGORITHM,
        ingress_vni: INGRESS,
        mode: IngressMode::Mesh,
        ingress_address: None,
        tasks: vec![PublishedTask {
            task_hash: u64::from(task),
            address: IpAddr::V4(ingress(task)),
            node,
            draining: false,
        }],
    }
}

/// Two nodes; a client container and a task on the first, a task on the second.
fn lab(hook: Hook) -> Lab {
    let mut lab = Lab::at(2, hook);
    lab.network(APP, "10.0.1.0/24", false);
    lab.network(INGRESS, "10.255.0.0/24", true);
    for (at, node) in [(9, 0), (10, 0), (11, 1)] {
        let container = lab.container(node, &[(APP, app(at)), (INGRESS, ingress(at))]);
        serve(&lab.containers[container].space, SERVICE);
        serve(&lab.containers[container].space, DIRECT);
    }
    lab.tables.services.push(ServiceEntry {
        vni: APP,
        vip: IpAddr::V4(app(VIP)),
        backends: vec![IpAddr::V4(app(10)), IpAddr::V4(app(11))],
    });
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        lab.tables.published.push(published(HERE, protocol, 10, 1));
        lab.tables.published.push(published(ELSEWHERE, protocol, 11, 2));
    }
    lab.sync();
    lab
}

fn routes(lab: &Lab) -> Vec<Route<'_>> {
    let inside = &lab.containers[0].space;
    let route = |name, from, to, port| Route {
        name,
        from,
        to: SocketAddr::new(IpAddr::V4(to), port),
    };
    vec![
        route("local", inside, app(10), DIRECT),
        route("remote", inside, app(11), DIRECT),
        route("vip", inside, app(VIP), SERVICE),
        route("published here", &lab.client, node_address(1), HERE),
        route("published elsewhere", &lab.client, node_address(1), ELSEWHERE),
    ]
}

/// An agent that ended, however it did: nothing of it is left but what is pinned.
fn kill_all(lab: &mut Lab) {
    for node in &mut lab.nodes {
        drop(node.datapath.take());
    }
}

fn start_all(lab: &mut Lab) {
    for node in &mut lab.nodes {
        node.open();
    }
    lab.sync();
}

/// Runs the same traffic without and with `change`. Where nothing is lost without, nothing may be lost with it.
fn compare(what: &str, lab: &mut Lab, change: impl Fn(&mut Lab)) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rate = capacity(&routes(lab)) / 2 / routes(lab).len() as u64;
    for _ in 0..4 {
        let load = Load::start(&routes(lab), rate);
        sleep(PAUSE * 6);
        let control = load.finish();
        let load = Load::start(&routes(lab), rate);
        sleep(PAUSE);
        change(lab);
        sleep(PAUSE);
        let changed = load.finish();
        println!("{what}, {rate} datagrams a second on each path:");
        for (control, changed) in control.iter().zip(&changed) {
            println!("  {}\n  {}", told("control", control), told("changed", changed));
        }
        if control.iter().all(Lost::is_nothing) {
            let lost: Vec<&Lost> = changed.iter().filter(|lost| !lost.is_nothing()).collect();
            assert!(lost.is_empty(), "{what}: {lost:#?}");
            return;
        }
        println!("the control run lost packets: once more at half the rate");
        rate /= 2;
    }
    panic!("{what}: this machine loses packets at any rate");
}

fn told(run: &str, lost: &Lost) -> String {
    format!(
        "{run} {:>19}: {} of {} datagrams lost, {} of {} connections failed, {} segments sent again",
        lost.path,
        lost.lost,
        lost.sent,
        lost.failed.len(),
        lost.connects,
        lost.again
    )
}

fn restart(hook: Hook) {
    let mut lab = lab(hook);
    compare("killed and started again", &mut lab, |lab| {
        for _ in 0..3 {
            kill_all(lab);
            sleep(PAUSE);
            start_all(lab);
        }
    });
}

#[test]
fn a_restart_loses_no_packet_with_tcx() {
    restart(Hook::Tcx);
}

#[test]
fn a_restart_loses_no_packet_with_clsact() {
    restart(Hook::Clsact);
}

fn upgrade(hook: Hook) {
    let mut lab = lab(hook);
    compare("upgraded to another layout", &mut lab, |lab| {
        kill_all(lab);
        sleep(PAUSE);
        for node in &mut lab.nodes {
            node.build.layout += 1;
        }
        start_all(lab);
    });
}

#[test]
fn an_upgrade_loses_no_packet_with_tcx() {
    upgrade(Hook::Tcx);
}

#[test]
fn an_upgrade_loses_no_packet_with_clsact() {
    upgrade(Hook::Clsact);
}

fn attach_by(lab: &mut Lab, hook: Hook) {
    kill_all(lab);
    for node in &mut lab.nodes {
        node.hook = hook;
    }
    start_all(lab);
}

#[test]
fn another_kind_of_hook_loses_no_packet() {
    let mut lab = lab(Hook::Tcx);
    // The qdisc is made for good: the kernel stops an interface for some milliseconds to do it (`dev_deactivate` in
    // qdisc_graft), whoever asks.
    attach_by(&mut lab, Hook::Clsact);
    attach_by(&mut lab, Hook::Tcx);
    compare("from tcx to clsact and back", &mut lab, |lab| {
        for hook in [Hook::Clsact, Hook::Tcx] {
            attach_by(lab, hook);
            sleep(PAUSE);
        }
    });
}

/// Connections by the VIP and by a published port that say nothing for a while.
fn quiet(lab: &Lab) -> Vec<TcpStream> {
    let routes = routes(lab);
    let by_table = routes.iter().filter(|route| route.to.port() != DIRECT);
    by_table
        .flat_map(|route| {
            (0..8).map(|_| {
                let mut stream = route.from.run(|| TcpStream::connect(route.to)).expect("connect");
                stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
                assert_eq!(exchange(&mut stream).expect(route.name), "said\n");
                stream
            })
        })
        .collect()
}

fn exchange(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"said\n")?;
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said)?;
    Ok(said)
}

fn established(lab: &mut Lab) -> u64 {
    let usage = |node: &mut Node| node.with(|d| d.flow_tables()?.usage()).expect("usage");
    lab.nodes
        .iter_mut()
        .map(|node| usage(node).established.used)
        .sum()
}

#[test]
fn quiet_flows_are_taken_along_and_those_of_a_layout_nobody_knows_end() {
    for hook in [Hook::Tcx, Hook::Clsact] {
        let mut lab = lab(hook);
        let mut streams = quiet(&lab);
        let before = established(&mut lab);
        assert_eq!(before, streams.len() as u64);
        kill_all(&mut lab);
        lab.nodes.iter_mut().for_each(|node| node.build.layout += 1);
        start_all(&mut lab);
        assert_eq!(established(&mut lab), before, "copied without a packet of theirs");
        for stream in &mut streams {
            assert_eq!(exchange(stream).expect("goes on"), "said\n");
        }
        // Back: this build has no idea what a later one put into its flows.
        kill_all(&mut lab);
        lab.nodes.iter_mut().for_each(|node| node.build.layout -= 1);
        start_all(&mut lab);
        assert_eq!(established(&mut lab), 0);
        for stream in &mut streams {
            let error = exchange(stream).expect_err("an answer from nowhere");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
        assert_eq!(quiet(&lab).len(), streams.len(), "new ones open");
    }
}

/// The programs with all their ends taken out: a valid object, and nothing that the verifier lets pass.
fn refused() -> &'static [u8] {
    let exit = [0x95, 0, 0, 0, 0, 0, 0, 0];
    let mut object = Build::THIS.object.to_vec();
    for instruction in object.chunks_exact_mut(8).filter(|bytes| *bytes == exit) {
        // r0 = *(u64 *)(r9 + 0), and r9 was never written.
        instruction.copy_from_slice(&[0x79, 0x90, 0, 0, 0, 0, 0, 0]);
    }
    object.leak()
}

fn programs(node: &Node) -> Vec<u32> {
    let (_, programs) = node
        .space
        .run(|| SchedClassifier::query_tcx("eth0", TcAttachType::Ingress))
        .expect("query");
    programs.iter().map(|program| program.id()).collect()
}

#[test]
fn programs_that_the_kernel_refuses_leave_the_old_ones_in_place() {
    for newer in [0, 1] {
        let mut lab = lab(Hook::Tcx);
        let mut streams = quiet(&lab);
        let before = programs(&lab.nodes[0]);
        kill_all(&mut lab);
        let node = &mut lab.nodes[0];
        let build = Build {
            layout: node.build.layout + newer,
            object: refused(),
        };
        let config = node.config.clone();
        let error = node
            .space
            .run(|| Datapath::open_build(config, node.hook, build))
            .expect_err("nothing of it can run");
        assert!(error.to_string().starts_with("load program"), "{error}");
        assert_eq!(programs(node), before, "the same program, by its id");
        let newer_pins = node.config.pin_dir.join(format!("v{}", node.build.layout + 1));
        assert!(!newer_pins.exists(), "maps of programs that never ran");
        for stream in &mut streams {
            assert_eq!(exchange(stream).expect("goes on"), "said\n");
        }
        start_all(&mut lab);
        for stream in &mut streams {
            assert_eq!(exchange(stream).expect("goes on"), "said\n");
        }
    }
}

#[test]
fn a_node_without_its_agent_keeps_its_flows_and_gets_no_new_ones() {
    let mut lab = lab(hook_of_kernel());
    let streams = quiet(&lab);
    let is_elsewhere = |stream: &TcpStream| stream.peer_addr().is_ok_and(|to| to.port() == ELSEWHERE);
    let (mut elsewhere, mut others): (Vec<TcpStream>, Vec<TcpStream>) =
        streams.into_iter().partition(is_elsewhere);
    let mut liveness = lab.nodes[0].with(|d| d.liveness()).expect("handles");
    liveness.silent(2).expect("mark");
    for stream in elsewhere.iter_mut().chain(&mut others) {
        assert_eq!(exchange(stream).expect("goes on"), "said\n");
    }
    let entry = node_address(1);
    refused_at_once(&lab.client, entry, ELSEWHERE);
    liveness.mark(2, false).expect("mark");
    for stream in &mut elsewhere {
        let error = exchange(stream).expect_err("its task is gone");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    liveness.mark(2, true).expect("unmark");
    assert_eq!(quiet(&lab).len(), elsewhere.len() + others.len());
}
