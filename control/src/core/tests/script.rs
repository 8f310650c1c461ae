//! The script language of the golden tests: one command a line, answered as a user or a log would see it.
//!
//! ```text
//! node add|down|up|unknown|left|drain|pause|active|rm NAME [--label K=V] [--manager]
//! network add NAME [--subnet S] [--attachable] [--gateway G]      network rm NAME
//! service create|update NAME [--replicas N] [--network N] [--publish P:T[/udp|/host]] [--constraint C] [--env E]
//!         [--global] [--global-job] [--job CONCURRENT/TOTAL] [--spread KEY] [--max-replicas N] [--cpus C] [--restart COND] [--attempts N] [--delay S] [--dnsrr] [--label K=V]
//!         [--order start-first] [--parallelism N] [--every S] [--on-failure pause|continue|rollback] [--monitor S] [--ratio R]
//! service rollback|rm NAME             attach ID NODE NETWORK [ADDRESS]         detach ID NODE
//! task NAME STATE                      advance SECONDS       plan | step | obey | settle
//! ingress add CIDR [--interface I] [--nodes CONSTRAINT]          ingress rm|move ADDRESS [NODE]
//! node cpus NAME N    node generic NAME KIND=VALUE,...
//! node dsr NAME works|dropped                                    node label NAME K=V
//! show tasks|services|updates|networks|ingress|assignments NODE
//! ```

use super::world::*;
use crate::core::assign::assign;
use crate::core::state::*;
use crate::model::*;

/// Runs a script; the answer is its transcript.
pub fn run(script: &str) -> String {
    let mut world = World::new();
    let mut transcript = String::new();
    for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
        transcript.push_str(line);
        transcript.push('\n');
        if line.starts_with('#') {
            continue;
        }
        for answer in answer(&mut world, line).lines() {
            transcript.push_str(&format!("    {answer}\n"));
        }
    }
    transcript
}

fn answer(world: &mut World, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["node", verb, name, options @ ..] => node_command(world, verb, name, options),
        ["network", "add", name, options @ ..] => {
            let change = create_network(name, options);
            said(world, change)
        }
        ["network", "rm", id] => said(world, Change::RemoveNetwork(RemoveNetwork { id: id.to_string() })),
        ["service", verb, name, options @ ..] => service_command(world, verb, name, options),
        ["attach", id, node, network, rest @ ..] => {
            let change = CreateAttachment {
                id: id.to_string(),
                node_id: node.to_string(),
                network: network.to_string(),
                names: vec![format!("container-{id}")],
                address: rest.first().unwrap_or(&"").to_string(),
            };
            said(world, Change::CreateAttachment(change))
        }
        ["detach", id, node] => {
            let change = UpdateAttachment {
                id: id.to_string(),
                node_id: node.to_string(),
                container_id: None,
                remove: true,
            };
            said(world, Change::UpdateAttachment(change))
        }
        ["ingress", verb, words @ ..] => ingress_command(world, verb, words),
        ["task", name, state] => {
            let state = named_state(state);
            world.report(name, state);
            String::new()
        }
        ["advance", seconds] => {
            world.now += seconds.parse::<i64>().expect("seconds") * SECOND;
            String::new()
        }
        ["plan"] => wake(world.plan(), world.now),
        ["step"] => step(world),
        ["obey"] => {
            world.obey();
            String::new()
        }
        ["settle"] => wake(world.settle(), world.now),
        ["show", what @ ..] => show(world, what),
        _ => panic!("unknown command: {line}"),
    }
}

fn named_state(word: &str) -> TaskState {
    match word {
        "running" => TaskState::Running,
        "complete" => TaskState::Complete,
        "failed" => TaskState::Failed,
        "rejected" => TaskState::Rejected,
        _ => panic!("no task state {word}"),
    }
}

fn named_availability(word: &str) -> Availability {
    match word {
        "active" => Availability::Active,
        "pause" => Availability::Pause,
        "drain" => Availability::Drain,
        _ => panic!("no availability {word}"),
    }
}

fn wake(when: Option<Timestamp>, now: Timestamp) -> String {
    when.map(|at| format!("wakes in {} s\n", (at - now) / SECOND))
        .unwrap_or_default()
}

fn said(world: &mut World, change: Change) -> String {
    let applied = world.apply(change);
    match applied.refused {
        Some(refused) => format!("{:?}: {}", refused.code(), refused.message),
        None => applied.address,
    }
}

fn step(world: &mut World) -> String {
    let plan = world.next_plan();
    let ranks = plan.ranks.iter().map(|r| {
        let (owners, observers) = (node_names(world, &r.owners), node_names(world, &r.observers));
        format!("rank {}: {owners} observed by {observers}\n", r.id)
    });
    let mut text: String = ranks.collect();
    let steps = plan.steps.iter().filter_map(|s| s.action.as_ref());
    text.extend(steps.map(describe));
    text.push_str(&wake(plan.wake_at, world.now));
    for change in plan.changes() {
        world.apply(change);
    }
    text
}

/// Node ids of indexes, in the order given.
fn node_names(world: &World, indexes: &[u32]) -> String {
    let name = |index: &u32| {
        let node = world.state.nodes.values().find(|n| n.index == *index);
        node.map_or_else(|| format!("#{index}"), |n| n.id.clone())
    };
    let names: Vec<String> = indexes.iter().map(name).collect();
    if names.is_empty() {
        "nobody".to_string()
    } else {
        names.join(" ")
    }
}

fn state_name(state: i32) -> String {
    TaskState::try_from(state).map_or("?".into(), |s| format!("{s:?}").to_uppercase())
}

fn describe(action: &TaskAction) -> String {
    match action {
        TaskAction::Create(c) => format!(
            "create {}.{} {} {}\n",
            c.service_id,
            if c.node_id.is_empty() {
                c.slot.to_string()
            } else {
                c.node_id.clone()
            },
            c.id,
            state_name(c.desired_state)
        ),
        TaskAction::Assign(a) => format!("assign {} to {}\n", a.id, a.node_id),
        TaskAction::Desire(d) => format!("desire {} {}\n", d.id, state_name(d.desired_state)),
        TaskAction::Explain(e) => format!("explain {}: {}\n", e.id, e.err),
        TaskAction::Delete(id) => format!("delete {id}\n"),
        TaskAction::UpdateStatus(s) => {
            let status = s.status.clone().unwrap_or_default();
            format!(
                "update status of {}: {} ({})\n",
                s.service_id, status.state, status.message
            )
        }
        TaskAction::Allocate(id) => format!("allocate {id}\n"),
        TaskAction::Orphan(id) => format!("orphan {id}\n"),
        TaskAction::Evict(id) => format!("evict {id}\n"),
    }
}

/// `--name value` pairs; flags have an empty value.
fn options<'a>(words: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for word in words {
        match (word.strip_prefix("--"), pairs.last_mut()) {
            (Some(name), _) => pairs.push((name, "")),
            (None, Some(pair)) => pair.1 = word,
            (None, None) => panic!("unexpected word {word}"),
        }
    }
    pairs
}

fn node_command(world: &mut World, verb: &str, name: &str, words: &[&str]) -> String {
    let id = name.to_string();
    let known = world.state.nodes.get(name).cloned();
    let report = |state: NodeState| {
        Change::ReportNode(ReportNode {
            id: id.clone(),
            state: Some(state as i32),
            ..Default::default()
        })
    };
    let change = match verb {
        "add" => {
            let mut node = node(name);
            for (option, value) in options(words) {
                match (option, value.split_once('=')) {
                    ("label", Some((k, v))) => {
                        node.spec.annotations.labels.insert(k.into(), v.into());
                    }
                    ("manager", _) => {
                        node.spec.role = Role::Manager as i32;
                        node.manager_address = format!("{name}:2377");
                    }
                    ("address", _) => node.address = value.into(),
                    ("generic", _) => {
                        node.description.get_or_insert_default().generic = generic(value);
                    }
                    _ => panic!("unknown option {option}"),
                }
            }
            Change::CreateNode(CreateNode { node })
        }
        "down" => report(NodeState::Down),
        "up" => report(NodeState::Ready),
        "unknown" => report(NodeState::Unknown),
        "left" => Change::ReportNode(ReportNode {
            id: id.clone(),
            state: Some(NodeState::Down as i32),
            manager_address: Some(String::new()),
            ..Default::default()
        }),
        "rm" => Change::RemoveNode(RemoveNode {
            id,
            force: words == ["--force"],
        }),
        "cpus" | "generic" => {
            let mut description = known.and_then(|n| n.description.clone()).expect("no such node");
            match verb {
                "cpus" => description.nano_cpus = words[0].parse::<i64>().expect("cpus") * SECOND,
                _ => description.generic = generic(words[0]),
            }
            Change::ReportNode(ReportNode {
                id,
                description: Some(description),
                ..Default::default()
            })
        }
        "dsr" => {
            let mut description = known.and_then(|n| n.description.clone()).expect("no such node");
            let (dsr, text) = match words {
                ["works"] => (Dsr::Works, "all arrived"),
                _ => (Dsr::Dropped, "none of 5 from n1 arrived"),
            };
            description.dsr = dsr as i32;
            description.dsr_text = text.to_string();
            Change::ReportNode(ReportNode {
                id,
                description: Some(description),
                ..Default::default()
            })
        }
        "label" | "active" | "pause" | "drain" => {
            let node = known.expect("no such node");
            let mut spec = node.spec.clone();
            match words.first().and_then(|word| word.split_once('=')) {
                Some((key, value)) => {
                    spec.annotations.labels.insert(key.into(), value.into());
                }
                None => spec.availability = named_availability(verb) as i32,
            }
            Change::UpdateNode(UpdateNode {
                id,
                version: node.meta.version,
                spec,
            })
        }
        _ => panic!("unknown command: node {verb}"),
    };
    said(world, change)
}

fn create_network(name: &str, words: &[&str]) -> Change {
    let mut spec = NetworkSpec::default();
    spec.annotations.name = name.to_string();
    let mut config = IpamConfig::default();
    for (option, value) in options(words) {
        match option {
            "subnet" => config.subnet = value.into(),
            "gateway" => config.gateway = value.into(),
            "attachable" => spec.attachable = true,
            _ => panic!("unknown option {option}"),
        }
    }
    if config != IpamConfig::default() {
        let configs = vec![config];
        spec.ipam = Some(IpamOptions {
            driver: None,
            configs,
        });
    }
    Change::CreateNetwork(CreateNetwork {
        id: name.to_string(),
        spec,
    })
}

fn service_command(world: &mut World, verb: &str, name: &str, words: &[&str]) -> String {
    let id = name.to_string();
    let known = world.state.services.get(name).cloned();
    let version = known.as_ref().map_or(0, |s| s.meta.version);
    let mut spec = known.map_or_else(|| service_spec(name, 1), |s| s.spec.clone());
    for (option, value) in options(words) {
        set(&mut spec, option, value);
    }
    let change = match verb {
        "create" => Change::CreateService(CreateService { id, spec }),
        "update" => Change::UpdateService(UpdateService {
            id,
            version,
            spec,
            rollback: false,
        }),
        "stale" => Change::UpdateService(UpdateService {
            id,
            version: version - 1,
            spec,
            rollback: false,
        }),
        "rollback" => Change::UpdateService(UpdateService {
            id,
            version,
            spec,
            rollback: true,
        }),
        "rm" => Change::RemoveService(RemoveService { id }),
        _ => panic!("unknown verb {verb}"),
    };
    said(world, change)
}

/// The id of an ingress address is its text without prefix length.
fn ingress_command(world: &mut World, verb: &str, words: &[&str]) -> String {
    let id = words[0].split('/').next().unwrap_or_default().to_string();
    let change = match (verb, words) {
        ("add", [address, words @ ..]) => {
            let mut spec = IngressAddressSpec {
                address: address.to_string(),
                ..Default::default()
            };
            for (option, value) in options(words) {
                match option {
                    "interface" => spec.interface = value.into(),
                    "nodes" => spec.constraints.push(value.into()),
                    _ => panic!("unknown option {option}"),
                }
            }
            Change::CreateIngressAddress(CreateIngressAddress { id, spec })
        }
        ("rm", [_]) => Change::RemoveIngressAddress(RemoveIngressAddress { id }),
        ("move", [_, node]) => Change::MoveIngressAddress(MoveIngressAddress {
            id,
            node_id: node.to_string(),
        }),
        _ => panic!("unknown command: ingress {verb} {words:?}"),
    };
    said(world, change)
}

fn set(spec: &mut ServiceSpec, option: &str, value: &str) {
    let task = &mut spec.task;
    match option {
        "name" => spec.annotations.name = value.into(),
        "replicas" => spec.mode = service_spec("", value.parse().expect("replicas")).mode,
        "global" => spec.mode = Some(ServiceMode::Global(GlobalMode {})),
        "global-job" => spec.mode = Some(ServiceMode::GlobalJob(GlobalJob {})),
        "job" => {
            let (concurrent, total) = value.split_once('/').unwrap_or((value, value));
            spec.mode = Some(ServiceMode::ReplicatedJob(ReplicatedJob {
                max_concurrent: concurrent.parse().expect("number"),
                total_completions: total.parse().expect("number"),
            }));
        }
        "env" => task.container.env = vec![value.into()],
        "network" => task.networks.push(NetworkAttachmentConfig {
            target: value.into(),
            ..Default::default()
        }),
        "publish" => spec.endpoint.get_or_insert_default().ports.push(port(value)),
        "unpublish" => spec.endpoint.get_or_insert_default().ports.clear(),
        "dnsrr" => spec.endpoint.get_or_insert_default().mode = Some("dnsrr".into()),
        "constraint" => task.placement.get_or_insert_default().constraints = vec![value.into()],
        "spread" => task.placement.get_or_insert_default().spread.push(value.into()),
        "max-replicas" => {
            task.placement.get_or_insert_default().max_replicas = value.parse().expect("number")
        }
        "arch" => {
            let platform = Platform {
                architecture: value.into(),
                os: "linux".into(),
            };
            task.placement.get_or_insert_default().platforms.push(platform);
        }
        "cpus" => {
            let nano_cpus = value.parse::<i64>().expect("cpus") * SECOND;
            reservations(task).nano_cpus = nano_cpus;
        }
        "memory" => reservations(task).memory = value.parse::<i64>().expect("GiB") << 30,
        "generic" => {
            let generic = generic(value);
            reservations(task).generic = generic;
        }
        "volume" => task.container.mounts.push(Mount {
            kind: "volume".into(),
            source: value.into(),
            target: "/data".into(),
            ..Default::default()
        }),
        "order" | "parallelism" | "every" | "on-failure" | "monitor" | "ratio" => {
            set_update(
                spec.update.get_or_insert_with(UpdateConfig::standard),
                option,
                value,
            );
        }
        "restart" => task.restart.get_or_insert_default().condition = Some(value.into()),
        "attempts" => task.restart.get_or_insert_default().max_attempts = value.parse().ok(),
        "window" => {
            task.restart.get_or_insert_default().window = value.parse::<i64>().ok().map(|s| s * SECOND)
        }
        "delay" => task.restart.get_or_insert_default().delay = value.parse::<i64>().ok().map(|s| s * SECOND),
        "label" => {
            let (key, value) = value.split_once('=').unwrap_or((value, ""));
            spec.annotations.labels.insert(key.into(), value.into());
        }
        _ => panic!("unknown option {option}"),
    }
}

fn reservations(task: &mut TaskSpec) -> &mut Resources {
    let resources = task.resources.get_or_insert_default();
    resources.reservations.get_or_insert_default()
}

/// `SSD=3,GPU=a,GPU=b`
fn generic(text: &str) -> Vec<GenericResource> {
    let one = |term: &str| {
        let (kind, value) = term.split_once('=').expect("KIND=VALUE");
        let amount = value.parse().ok();
        GenericResource {
            kind: kind.into(),
            name: amount.is_none().then(|| value.into()),
            amount: amount.unwrap_or(0),
        }
    };
    text.split(',').map(one).collect()
}

fn set_update(config: &mut UpdateConfig, option: &str, value: &str) {
    let seconds = || value.parse::<i64>().expect("seconds") * SECOND;
    match (option, value) {
        ("order", "start-first") => config.order = UpdateOrder::StartFirst as i32,
        ("order", _) => config.order = UpdateOrder::StopFirst as i32,
        ("parallelism", _) => config.parallelism = value.parse().expect("number"),
        ("every", _) => config.delay = seconds(),
        ("monitor", _) => config.monitor = seconds(),
        ("ratio", _) => config.max_failure_ratio = value.parse().expect("ratio"),
        (_, "continue") => config.failure_action = FailureAction::Continue as i32,
        (_, "rollback") => config.failure_action = FailureAction::Rollback as i32,
        _ => config.failure_action = FailureAction::Pause as i32,
    }
}

fn port(text: &str) -> PortConfig {
    let (ports, suffix) = text.split_once('/').unwrap_or((text, ""));
    let (published, target) = ports.split_once(':').expect("P:T");
    PortConfig {
        published_port: published.parse().expect("port"),
        target_port: target.parse().expect("port"),
        protocol: if suffix == "udp" {
            Protocol::Udp
        } else {
            Protocol::Tcp
        } as i32,
        publish_mode: if suffix == "host" {
            PublishMode::Host
        } else {
            PublishMode::Ingress
        } as i32,
        ..Default::default()
    }
}

fn show(world: &World, what: &[&str]) -> String {
    let state = &world.state;
    match what {
        ["tasks"] => {
            let mut tasks: Vec<&Task> = state.tasks.values().map(|t| &**t).collect();
            tasks.sort_by_key(|t| (&t.service.name, place_of(t), t.meta.created_at, &t.id));
            tasks.into_iter().map(task_line).collect()
        }
        ["services"] => state.services.values().map(|s| service_line(s)).collect(),
        ["updates"] => {
            let line = |s: &Service| {
                let status = s.update_status.clone().unwrap_or_default();
                let previous = s.previous_spec.as_ref().map_or("gone", |_| "kept");
                format!(
                    "{} {}: {} (previous spec {previous})\n",
                    s.id, status.state, status.message
                )
            };
            state.services.values().map(|s| line(s)).collect()
        }
        ["volumes"] => {
            let tasks = state.tasks.values().filter(|t| is_wanted(t));
            tasks
                .map(|t| {
                    format!(
                        "{}.{} on {}, data on {}\n",
                        t.service.name, t.slot, t.node_id, t.volume_node
                    )
                })
                .collect()
        }
        ["generic"] => {
            let given = |t: &Task| {
                let one = |g: &GenericResource| match &g.name {
                    Some(name) => format!(" {}={name}", g.kind),
                    None => format!(" {}={}", g.kind, g.amount),
                };
                t.generic.iter().map(one).collect::<String>()
            };
            let tasks = state.tasks.values().filter(|t| !has_ended(t));
            tasks
                .map(|t| format!("{}.{} {}{}\n", t.service.name, t.slot, t.node_id, given(t)))
                .collect()
        }
        ["networks"] => {
            let line = |n: &Network| {
                let ipam: Vec<String> = n
                    .ipam
                    .iter()
                    .map(|c| format!("{} via {}", c.subnet, c.gateway))
                    .collect();
                format!("{} vni {} {}\n", n.spec.annotations.name, n.vni, ipam.join(", "))
            };
            state.networks.values().map(|n| line(n)).collect()
        }
        ["ingress"] => {
            let mut addresses: Vec<&IngressAddress> =
                state.ingress_addresses.values().map(|a| &**a).collect();
            addresses.sort_by_key(|a| a.index);
            let line = |a: &IngressAddress| {
                let (owners, observers) = (node_names(world, &a.owners), node_names(world, &a.observers));
                format!(
                    "{} epoch {}: {owners} observed by {observers}\n",
                    a.spec.address, a.epoch
                )
            };
            addresses.into_iter().map(line).collect()
        }
        ["assignments", node] => assign(state, node, &Default::default())
            .iter()
            .map(|(key, item)| format!("{key}{}\n", item_detail(item)))
            .collect(),
        _ => panic!("cannot show {what:?}"),
    }
}

fn task_line(task: &Task) -> String {
    let networks: Vec<String> = task
        .networks
        .iter()
        .map(|n| format!("{}={}", n.network_id, n.addresses.join("+")))
        .collect();
    let line = format!(
        "{} {} {:3} {}/{} {} {}",
        place_name(task),
        task.id,
        task.node_id,
        state_name(task.desired_state),
        state_name(task.status.state),
        networks.join(" "),
        task.status.err,
    );
    format!("{}\n", line.trim_end())
}

fn service_line(service: &Service) -> String {
    let vips: Vec<String> = service
        .vips
        .iter()
        .map(|v| format!("{}={}", v.network_id, v.address))
        .collect();
    let ports: Vec<String> = service
        .ports
        .iter()
        .map(|p| format!("{}:{}/{:?}", p.published_port, p.target_port, p.protocol()))
        .collect();
    let status = service.update_status.as_ref().map_or("", |s| &s.state);
    let mode = match (&service.spec.mode, &service.job) {
        (Some(ServiceMode::Replicated(_)) | None, _) => format!("x{}", replicas_of(&service.spec)),
        (_, Some(job)) => format!("{} #{}", mode_of(&service.spec), job.iteration),
        _ => mode_of(&service.spec).to_string(),
    };
    let line = format!(
        "{} {mode} vips [{}] ports [{}] {status}",
        service.spec.annotations.name,
        vips.join(" "),
        ports.join(" "),
    );
    format!("{}\n", line.trim_end())
}

fn item_detail(item: &Item) -> String {
    let draining = |d: bool| if d { " draining" } else { "" };
    match &item.kind {
        Some(ItemKind::Peer(p)) => format!(" #{}{}", p.index, if p.ready { "" } else { " down" }),
        Some(ItemKind::Published(p)) => {
            let task = |t: &PublishedTask| {
                format!(
                    " {}@{}#{}{}",
                    t.task_id,
                    t.address,
                    t.node_index,
                    draining(t.draining)
                )
            };
            let mode = match p.mode() {
                IngressMode::Mesh => String::new(),
                mode => format!(" {mode:?}").to_lowercase(),
            };
            let only = if p.ingress_address.is_empty() { "" } else { " on " };
            let tasks: String = p.tasks.iter().map(task).collect();
            format!("{mode}{only}{}{tasks}", p.ingress_address)
        }
        Some(ItemKind::Service(s)) => format!(" {} vip {}", s.name, s.vip),
        Some(ItemKind::Endpoint(e)) => {
            format!(
                " {}#{} [{}]{}",
                e.address,
                e.node_index,
                e.names.join(" "),
                draining(e.draining)
            )
        }
        Some(ItemKind::Task(t)) => {
            let released = if t.released { " released" } else { "" };
            format!(
                " {}/{}{released}",
                state_name(t.desired_state),
                state_name(t.observed_state)
            )
        }
        Some(ItemKind::IngressAddress(a)) => {
            let dedicated = if a.dedicated { " dedicated" } else { "" };
            let text = format!("{:?} observed by {:?}", a.owners, a.observers);
            format!(" #{} {} epoch {} {text}{dedicated}", a.index, a.address, a.epoch)
        }
        Some(ItemKind::Attachment(a)) => format!(" {}", a.network.addresses.join(" ")),
        _ => String::new(),
    }
}
