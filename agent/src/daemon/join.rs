//! `swarm init` and `swarm join`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use skep_control::daemon::{ApiError, InitRequest, JoinRequest};
use skep_control::model::NodeDescription;
use skep_control::run::{self, InitParams, JoinError, JoinParams};
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::errors::{already_in_a_swarm, error, join_timeout};
use super::{Daemon, State, first_assignments};
use crate::core::address::{self, AddressError, DEFAULT_PORT, Interface, advertise, parse};
use crate::core::desired::Desired;
use crate::io::system;
use crate::member::{Common, Member, Start};
use crate::reconciler::chain;

/// Docker answers after this time, and goes on (moby daemon/cluster: swarmConnectTimeout).
const JOIN_ANSWER: Duration = Duration::from_secs(20);

/// Where this node listens and how others reach it.
pub(super) struct Addresses {
    pub(super) listen: SocketAddr,
    pub(super) advertise: SocketAddr,
    /// Empty = as `advertise`.
    data_path: String,
}

type Slot = OwnedMutexGuard<Option<Member>>;

impl Daemon {
    pub(super) async fn make_swarm(&self, request: InitRequest) -> Result<String, ApiError> {
        let mut slot = self.free_slot()?;
        let interfaces = interfaces()?;
        let addresses = addresses(
            &request.listen_addr,
            &request.advertise_addr,
            &request.data_path_addr,
            &interfaces,
        )?;
        let description = describe(&self.common).await;
        let params = InitParams {
            spec: request.spec,
            default_address_pools: request.default_addr_pool,
            subnet_size: request.subnet_size,
            data_path_port: request.data_path_port,
            address: addresses.advertise.ip().to_string(),
            data_path_address: addresses.data_path.clone(),
            description: description.clone(),
            availability: request.availability,
        };
        let advertise = addresses.advertise.to_string();
        let made = run::init(&self.common.state_dir, addresses.listen, &advertise, params).await;
        let (running, identity) = made.map_err(|e| error(500, chain(&e)))?;
        let node_id = identity.node_id.clone();
        let start = Start {
            identity,
            managers: vec![advertise],
            running: Some(running),
            lock: None,
            address: addresses.advertise.ip().to_string(),
            data_path_address: addresses.data_path,
            description: Some(description),
            desired: Desired::default(),
        };
        let view = self.take_up(Member::start(&self.common, start), &mut slot);
        drop(slot);
        first_assignments(&view).await;
        Ok(node_id)
    }

    pub(super) async fn join_swarm(self: &Daemon, request: JoinRequest) -> Result<(), ApiError> {
        let slot = self.free_slot()?;
        let addresses = joining_addresses(&request).await?;
        self.state.send_replace(State::Pending(String::new()));
        let (answer, answered) = oneshot::channel();
        let (common, state) = (self.common.clone(), self.state.clone());
        tokio::spawn(async move {
            let outcome = join(&common, request, addresses, slot, &state).await;
            if let Err(failure) = &outcome {
                tracing::warn!(error = %failure, "join");
            }
            // Nobody listens after the timeout.
            drop(answer.send(outcome));
        });
        match tokio::time::timeout(JOIN_ANSWER, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(error(500, "the join was given up")),
            Err(_) => Err(join_timeout()),
        }
    }

    fn free_slot(&self) -> Result<Slot, ApiError> {
        let slot = Arc::clone(&self.member)
            .try_lock_owned()
            .map_err(|_| already_in_a_swarm())?;
        if slot.is_some() {
            Err(already_in_a_swarm())
        } else {
            Ok(slot)
        }
    }
}

async fn join(
    common: &Common,
    request: JoinRequest,
    addresses: Addresses,
    mut slot: Slot,
    state: &tokio::sync::watch::Sender<State>,
) -> Result<(), ApiError> {
    let description = describe(common).await;
    let address = addresses.advertise.ip().to_string();
    let params = JoinParams {
        address: address.clone(),
        data_path_address: addresses.data_path.clone(),
        description: description.clone(),
        availability: request.availability,
    };
    let advertise = addresses.advertise.to_string();
    let remotes: Vec<String> = request.remote_addrs.iter().map(|r| with_port(r)).collect();
    let joined = run::join(
        &common.state_dir,
        addresses.listen,
        &advertise,
        &remotes,
        &request.join_token,
        params,
    )
    .await;
    let joined = match joined {
        Ok(joined) => joined,
        Err(failure) => {
            state.send_replace(State::Inactive);
            return Err(join_error(&failure));
        }
    };
    let start = Start {
        identity: joined.identity,
        managers: joined.managers,
        running: joined.running,
        lock: None,
        address,
        data_path_address: addresses.data_path,
        description: Some(description),
        desired: Desired::default(),
    };
    let member = Member::start(common, start);
    let view = member.view().clone();
    *slot = Some(member);
    state.send_replace(State::Member(view.clone()));
    drop(slot);
    first_assignments(&view).await;
    Ok(())
}

fn join_error(failure: &JoinError) -> ApiError {
    match failure {
        JoinError::InvalidToken | JoinError::Fingerprint { .. } => error(400, chain(failure)),
        other => error(503, chain(other)),
    }
}

fn with_port(remote: &str) -> String {
    let bare: Result<IpAddr, _> = remote.parse();
    match bare {
        Ok(IpAddr::V6(v6)) => format!("[{v6}]:{DEFAULT_PORT}"),
        _ if remote.contains(':') => remote.to_string(),
        _ => format!("{remote}:{DEFAULT_PORT}"),
    }
}

pub(super) fn interfaces() -> Result<Vec<Interface>, ApiError> {
    system::interfaces().map_err(|e| error(500, chain(&e)))
}

fn bad_address(failure: AddressError) -> ApiError {
    error(400, failure.to_string())
}

pub(super) fn addresses(
    listen: &str,
    advertised: &str,
    data_path: &str,
    interfaces: &[Interface],
) -> Result<Addresses, ApiError> {
    let listen = if listen.is_empty() { "0.0.0.0" } else { listen };
    let listen: SocketAddr = parse(listen, DEFAULT_PORT, interfaces)
        .map_err(|e| bad_address(e.of(AddressError::Listen)))?
        .into();
    // A listen address of its own is what a node is reached by, unless it says otherwise.
    let own = listen.ip().to_string();
    let advertised = if advertised.is_empty() && !listen.ip().is_unspecified() {
        &own
    } else {
        advertised
    };
    let advertise = advertise(advertised, listen.port(), interfaces)
        .map_err(|e| bad_address(e.of(AddressError::Unspecified)))?
        .into();
    let data_path = match data_path {
        "" => String::new(),
        text => address::data_path(text, interfaces)
            .map_err(bad_address)?
            .to_string(),
    };
    Ok(Addresses {
        listen,
        advertise,
        data_path,
    })
}

/// A node that says nothing is reached by the address it uses towards the manager.
async fn joining_addresses(request: &JoinRequest) -> Result<Addresses, ApiError> {
    let interfaces = interfaces()?;
    let mut advertised = request.advertise_addr.clone();
    if advertised.is_empty() {
        let remote = request
            .remote_addrs
            .first()
            .ok_or_else(|| error(400, "at least 1 RemoteAddr is required to join"))?;
        let mut found = tokio::net::lookup_host(with_port(remote))
            .await
            .map_err(|e| error(400, format!("look up {remote}: {e}")))?;
        let remote = found
            .next()
            .ok_or_else(|| error(400, format!("{remote} has no address")))?;
        advertised = system::address_towards(remote)
            .map_err(|e| error(503, chain(&e)))?
            .to_string();
    }
    addresses(
        &request.listen_addr,
        &advertised,
        &request.data_path_addr,
        &interfaces,
    )
}

/// What the Engine says; while it is down, only what the host says: the rest follows in the session.
pub(super) async fn describe(common: &Common) -> NodeDescription {
    match common.engine.info().await {
        Ok(info) => info.description,
        Err(failure) => {
            tracing::warn!(error = %chain(&failure), "describe this node without the Engine");
            NodeDescription {
                hostname: system::hostname().unwrap_or_default(),
                ..NodeDescription::default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system() -> Vec<Interface> {
        vec![Interface {
            name: "eth0".into(),
            addresses: vec!["192.168.50.1".parse().unwrap()],
        }]
    }

    fn chosen(listen: &str, advertised: &str, data_path: &str) -> (String, String, String) {
        let found = addresses(listen, advertised, data_path, &system()).unwrap();
        (
            found.listen.to_string(),
            found.advertise.to_string(),
            found.data_path,
        )
    }

    #[test]
    fn nothing_said_means_everywhere_on_2377_and_the_only_address() {
        let expected = ("0.0.0.0:2377".into(), "192.168.50.1:2377".into(), String::new());
        assert_eq!(chosen("", "", ""), expected);
    }

    #[test]
    fn the_advertised_port_follows_the_listening_one() {
        assert_eq!(chosen("0.0.0.0:4000", "eth0", "").1, "192.168.50.1:4000");
        assert_eq!(chosen("10.9.9.9:4000", "", "").1, "10.9.9.9:4000");
        assert_eq!(chosen("0.0.0.0:4000", "10.9.9.9:5000", "eth0").1, "10.9.9.9:5000");
        assert_eq!(chosen("", "10.9.9.9", "eth0").2, "192.168.50.1");
    }

    #[test]
    fn remotes_get_the_default_port() {
        assert_eq!(with_port("10.0.0.1"), "10.0.0.1:2377");
        assert_eq!(with_port("10.0.0.1:4000"), "10.0.0.1:4000");
        assert_eq!(with_port("2001:db8::1"), "[2001:db8::1]:2377");
        assert_eq!(with_port("manager.example"), "manager.example:2377");
    }
}
