//! A node's network without a swarm around it: items come as lines on standard input, one answer line each.
//!
//! The test program starts itself with `alone` inside a node's namespaces.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use skep_agent::network::{self, Desired, Network, NetworkConfig};
use skep_control::model::{
    AttachmentItem, EndpointItem, IngressAddressItem, IpamConfig, Item, ItemKind, Items, NetworkAttachment,
    NetworkItem, PeerItem, PortConfig, Protocol, PublishedItem, PublishedTask, RowsSpec, ServiceItem,
    item_key,
};
use tokio::sync::watch;

/// `alone INDEX ADDRESS`.
pub fn run(arguments: &[String]) -> Result<()> {
    let [index, address] = arguments else {
        bail!("alone INDEX ADDRESS")
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(serve(index.parse()?, address.parse()?))
}

async fn serve(self_index: u32, address: IpAddr) -> Result<()> {
    let driver = network::serve_driver(Path::new("/var/lib/skep"), Path::new("/run/docker/plugins")).await?;
    let config = NetworkConfig {
        pin_dir: PathBuf::from("/sys/fs/bpf/skep"),
        docker_socket: PathBuf::from("/var/run/docker.sock"),
        data_path_address: address,
        self_index,
        data_path_port: 4789,
        hook: skep_agent::agent::Attach::Auto.hook(),
        memory: 0,
        probe_key: [7; 32],
        ingress_hook: Some(PathBuf::from(super::HOOK)),
    };
    let (sender, desired) = watch::channel(Desired::default());
    let network = network::start(config, driver, desired).await?;
    let mut items = Items::new();
    let (lines_sender, mut lines) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines_sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    // The number inside the namespaces, by which a test ends this process.
    answer(&format!("ready {}", std::process::id()));
    while let Some(line) = lines.recv().await {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["stop", remove] = words[..] {
            match network.stop(remove == "remove").await {
                Ok(()) => answer("ok"),
                Err(error) => answer(&format!("error {error}")),
            }
            return Ok(());
        }
        match obey(&words, &network, &sender, &mut items).await {
            Ok(text) => answer(&text),
            Err(error) => answer(&format!("error {error:#}")),
        }
    }
    network.stop(false).await?;
    Ok(())
}

fn answer(text: &str) {
    println!("{}", text.replace('\n', " "));
    std::io::stdout().flush().unwrap_or_default();
}

async fn obey(
    words: &[&str],
    network: &Network,
    sender: &watch::Sender<Desired>,
    items: &mut Items,
) -> Result<String> {
    match words {
        ["twin", id] => {
            let item = items.get(&format!("network/{id}")).context("no such network")?;
            let Some(ItemKind::Network(item)) = &item.kind else {
                bail!("no network")
            };
            Ok(network.ensure_twin(item).await?)
        }
        ["untwin"] => network
            .remove_unused_twins()
            .await
            .map(|()| "ok".to_string())
            .map_err(Into::into),
        ["problems"] => Ok(format!("problems: {}", network.problems().borrow().join("; "))),
        ["drops"] => Ok(format!("drops: {:?}", network.drops().await?)),
        ["held"] => Ok(format!("held: {:?}", network.held().borrow().values().next())),
        ["alive"] => Ok(format!("alive: {:?}", network.alive().borrow())),
        ["remove", key] => {
            items.remove(*key).context("no such item")?;
            apply(network, sender, items).await
        }
        _ => {
            let kind = item(words)?;
            items.insert(item_key(&kind), Item { kind: Some(kind) });
            apply(network, sender, items).await
        }
    }
}

async fn apply(network: &Network, sender: &watch::Sender<Desired>, items: &Items) -> Result<String> {
    let index = sender.borrow().index + 1;
    sender.send_replace(Desired {
        items: Arc::new(items.clone()),
        index,
        ..Desired::default()
    });
    let mut applied = network.applied();
    let waited = tokio::time::timeout(
        std::time::Duration::from_secs(10),
        applied.wait_for(|&at| at >= index),
    )
    .await;
    if waited.is_err() {
        bail!("not applied: {}", network.problems().borrow().join("; "));
    }
    Ok("ok".to_string())
}

fn item(words: &[&str]) -> Result<ItemKind> {
    let text = |word: &&str| word.to_string();
    Ok(match words {
        ["peer", index, underlay] => ItemKind::Peer(PeerItem {
            node_id: format!("node{index}"),
            index: index.parse()?,
            underlay: text(underlay),
            ready: true,
            ..Default::default()
        }),
        ["network", id, vni, subnet, gateway, kind] => ItemKind::Network(NetworkItem {
            network_id: text(id),
            name: text(id),
            vni: vni.parse()?,
            ipam: vec![IpamConfig {
                subnet: text(subnet),
                range: String::new(),
                gateway: text(gateway),
            }],
            internal: *kind == "internal",
            attachable: true,
            ingress: *kind == "ingress",
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
        }),
        ["attachment", id, network, address] => ItemKind::Attachment(AttachmentItem {
            id: text(id),
            network: NetworkAttachment {
                network_id: text(network),
                addresses: vec![text(address)],
                aliases: Vec::new(),
            },
            container_id: String::new(),
        }),
        ["service", id, network, vip] => ItemKind::Service(ServiceItem {
            service_id: text(id),
            network_id: text(network),
            name: text(id),
            vip: text(vip),
            aliases: Vec::new(),
        }),
        ["endpoint", id, network, service, address, node, draining] => ItemKind::Endpoint(EndpointItem {
            id: text(id),
            network_id: text(network),
            service_id: text(service).replace('-', ""),
            address: text(address),
            node_index: node.parse()?,
            names: vec![text(id)],
            draining: *draining == "draining",
        }),
        ["published", service, port, target, tasks @ ..] => ItemKind::Published(PublishedItem {
            service_id: text(service),
            service_name: text(service),
            ports: vec![PortConfig {
                protocol: Protocol::Tcp as i32,
                target_port: target.parse()?,
                published_port: port.parse()?,
                ..Default::default()
            }],
            rows: RowsSpec {
                seed: 42,
                rows_log2: 12,
                algorithm: 1,
            },
            tasks: tasks.iter().map(published_task).collect::<Result<_>>()?,
            ingress_vni: 4096,
            mode: 0,
            ingress_address: String::new(),
        }),
        ["ingress", address, epoch, owners] => ItemKind::IngressAddress(IngressAddressItem {
            id: "a".to_string(),
            index: 1,
            address: text(address),
            epoch: epoch.parse()?,
            owners: owners.split(',').map(str::parse).collect::<Result<_, _>>()?,
            observers: vec![1, 2],
            ..Default::default()
        }),
        _ => bail!("not understood: {words:?}"),
    })
}

/// `ADDRESS@NODE`.
fn published_task(word: &&str) -> Result<PublishedTask> {
    let (address, node) = word.split_once('@').context("ADDRESS@NODE")?;
    Ok(PublishedTask {
        task_id: format!("task{address}"),
        address: address.to_string(),
        node_index: node.parse()?,
        draining: false,
    })
}
