//! Whether the router behind an interface answers: in a swarm of two nodes, a node that misses the other asks it which
//! of them was cut off.
//!
//! Asked all the time while such an address exists: a question that begins when the other node is missed would make the
//! take-over late.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::ingress::Grounds;
use crate::ingress::core::announce::{LENGTH, answerer, question};
use crate::ingress::core::place::Interface;
use crate::ingress::io::raw::{RawError, RawSocket};

/// By interface and address of a router: when it last answered.
pub type Answers = BTreeMap<(u32, Ipv4Addr), Instant>;

const PERIOD: Duration = Duration::from_millis(200);
/// Answers are read this often.
const TICK: Duration = Duration::from_millis(50);
/// Then its MAC may be another's, and everybody is asked.
const FORGET: Duration = Duration::from_secs(1);
/// Before the socket is opened again after an error.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until it is dropped.
pub async fn run(mut grounds: watch::Receiver<Arc<Grounds>>, answers: watch::Sender<Arc<Answers>>) {
    loop {
        let needed = grounds.wait_for(|grounds| asked(grounds).next().is_some());
        if needed.await.is_err() {
            return;
        }
        if let Err(error) = ask(&mut grounds, &answers).await {
            tracing::warn!(%error, "the router is not asked");
            sleep(PAUSE).await;
        }
    }
}

fn asked(grounds: &Grounds) -> impl Iterator<Item = (&Interface, Ipv4Addr)> {
    let places = grounds.places.values().filter(|place| place.pair);
    places
        .filter_map(|place| place.interface.as_ref())
        .filter_map(|interface| Some((interface, interface.router?)))
}

/// While anybody is to be asked.
async fn ask(
    grounds: &mut watch::Receiver<Arc<Grounds>>,
    answers: &watch::Sender<Arc<Answers>>,
) -> Result<(), RawError> {
    let socket = RawSocket::receiver()?;
    let mut known: BTreeMap<(u32, Ipv4Addr), [u8; 6]> = BTreeMap::new();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = Instant::now();
    loop {
        let now = tick.tick().await;
        let grounds = grounds.borrow_and_update().clone();
        if asked(&grounds).next().is_none() {
            return Ok(());
        }
        hear(&socket, &grounds, answers, &mut known)?;
        if next <= now {
            next = now + PERIOD;
            forget(&mut known, &answers.borrow());
            questions(&socket, &grounds, &known);
        }
    }
}

fn questions(socket: &RawSocket, grounds: &Grounds, known: &BTreeMap<(u32, Ipv4Addr), [u8; 6]>) {
    for (interface, router) in asked(grounds) {
        let Some(device) = grounds.devices.get(&interface.index) else {
            continue;
        };
        let mac = known.get(&(interface.index, router)).copied();
        let own = interface.own.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let frame = question(interface.mac, own, router, mac);
        if let Err(error) = socket.send(device, &frame) {
            tracing::debug!(%error, %router, "the router is not asked");
        }
    }
}

fn hear(
    socket: &RawSocket,
    grounds: &Grounds,
    answers: &watch::Sender<Arc<Answers>>,
    known: &mut BTreeMap<(u32, Ipv4Addr), [u8; 6]>,
) -> Result<(), RawError> {
    let mut buffer = [0; LENGTH];
    while let Some((length, at)) = socket.receive(&mut buffer)? {
        let Some((address, mac)) = answerer(&buffer[..length]) else {
            continue;
        };
        if asked(grounds).any(|(interface, router)| interface.index == at && router == address) {
            known.insert((at, address), mac);
            answers.send_modify(|answers| {
                Arc::make_mut(answers).insert((at, address), Instant::now());
            });
        }
    }
    Ok(())
}

fn forget(known: &mut BTreeMap<(u32, Ipv4Addr), [u8; 6]>, answers: &Answers) {
    known.retain(|router, _| answers.get(router).is_some_and(|at| at.elapsed() < FORGET));
}
