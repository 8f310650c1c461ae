//! The whole server over real sockets: each address 127.0.0.x is another client.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use skep_dns::{Client, Server, Table, Zone};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn loopback(last: u8) -> IpAddr {
    IpAddr::from(Ipv4Addr::new(127, 0, 0, last))
}

fn zone(name: &str, names: &[(&str, u8)]) -> Zone {
    let names = names
        .iter()
        .map(|(name, count)| {
            let all = (1..=*count)
                .map(|last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last)))
                .collect();
            ((*name).to_owned(), all)
        })
        .collect();
    Zone {
        name: name.into(),
        names,
        reverse: BTreeMap::new(),
    }
}

/// 127.0.0.11 is on `app`, 127.0.0.12 on the internal `back`, 127.0.0.13 is unknown.
fn table() -> Table {
    let client = |network: &str, internal_only| Client {
        networks: vec![network.into()],
        internal_only,
    };
    Table {
        clients: BTreeMap::from([
            (loopback(11), client("a", false)),
            (loopback(12), client("b", true)),
        ]),
        networks: BTreeMap::from([
            ("a".into(), zone("app", &[("web", 1), ("tasks.web", 100)])),
            ("b".into(), zone("back", &[("db", 1)])),
        ]),
    }
}

/// Starts a server on a port that is free for both transports.
fn start(upstreams: &[SocketAddr]) -> (Server, watch::Sender<Arc<Table>>) {
    let (sender, receiver) = watch::channel(Arc::new(table()));
    let mut attempts = 0;
    loop {
        match Server::start((loopback(53), 0).into(), receiver.clone(), upstreams.to_vec()) {
            Ok(server) => return (server, sender),
            // The port the system chose for UDP is in use for TCP.
            Err(error) if attempts == 20 => panic!("{error}"),
            Err(_) => attempts += 1,
        }
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask_udp(server: SocketAddr, client: u8, message: &Message) -> Message {
    let socket = UdpSocket::bind((loopback(client), 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&message.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 4096];
    let length = timeout(PATIENCE, socket.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn connect(server: SocketAddr, client: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((loopback(client), 0).into()).unwrap();
    socket.connect(server).await.unwrap()
}

async fn ask_on(stream: &mut TcpStream, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    stream
        .write_u16(u16::try_from(bytes.len()).unwrap())
        .await
        .unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

/// Answers A questions with 192.0.2.1 and counts them. Names that begin with `big` are truncated over
/// UDP, and those with `fold` come back in lower case: both must be asked again over TCP.
async fn upstream() -> (SocketAddr, Arc<AtomicUsize>) {
    let (listener, socket) = loop {
        let listener = TcpListener::bind((loopback(54), 0)).await.unwrap();
        if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
            break (listener, socket);
        }
    };
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            seen.fetch_add(1, Ordering::Relaxed);
            let mut reply = upstream_reply(&buffer[..length]);
            let name = reply.queries[0].name().to_lowercase();
            if name.to_ascii().starts_with("big") {
                reply.answers.clear();
                reply.metadata.truncation = true;
            } else if name.to_ascii().starts_with("fold") {
                reply.queries[0].set_name(name);
            }
            socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut question = vec![0; usize::from(length)];
            stream.read_exact(&mut question).await.unwrap();
            let reply = upstream_reply(&question).to_vec().unwrap();
            stream
                .write_u16(u16::try_from(reply.len()).unwrap())
                .await
                .unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    });
    (address, count)
}

fn upstream_reply(question: &[u8]) -> Message {
    let mut message = Message::from_vec(question).unwrap().into_response();
    let name = message.queries[0].name().clone();
    message.add_answer(Record::from_rdata(
        name,
        60,
        RData::A(A(Ipv4Addr::new(192, 0, 2, 1))),
    ));
    message
}

#[tokio::test]
async fn each_client_sees_its_own_networks() {
    let (server, _table) = start(&[]);
    let web = query("web.", RecordType::A);
    let code = |message: &Message| (message.metadata.response_code, message.answers.len());
    let at = server.local_addr();
    assert_eq!(code(&ask_udp(at, 11, &web).await), (ResponseCode::NoError, 1));
    assert_eq!(code(&ask_udp(at, 12, &web).await), (ResponseCode::NXDomain, 0));
    assert_eq!(code(&ask_udp(at, 13, &web).await), (ResponseCode::Refused, 0));
    let mut stream = connect(at, 12).await;
    assert_eq!(
        code(&ask_on(&mut stream, &web).await),
        (ResponseCode::NXDomain, 0)
    );
    let db = query("db.back.", RecordType::A);
    assert_eq!(code(&ask_on(&mut stream, &db).await), (ResponseCode::NoError, 1));
    server.stop().await;
}

#[tokio::test]
async fn a_truncated_answer_is_whole_over_tcp_or_with_edns_larger() {
    let (server, _table) = start(&[]);
    let mut tasks = query("tasks.web.", RecordType::A);
    let plain = ask_udp(server.local_addr(), 11, &tasks).await;
    assert!(plain.metadata.truncation && !plain.answers.is_empty());
    let mut stream = connect(server.local_addr(), 11).await;
    let whole = ask_on(&mut stream, &tasks).await;
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 100));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    tasks.set_edns(edns);
    let larger = ask_udp(server.local_addr(), 11, &tasks).await;
    assert!(larger.answers.len() > plain.answers.len());
}

#[tokio::test]
async fn a_new_table_answers_at_once() {
    let (server, table_sender) = start(&[]);
    let web = query("web.", RecordType::A);
    assert_eq!(ask_udp(server.local_addr(), 11, &web).await.answers.len(), 1);
    let mut next = table();
    next.networks
        .get_mut("a")
        .unwrap()
        .names
        .insert("web".into(), vec![]);
    table_sender.send_replace(Arc::new(next));
    let reply = ask_udp(server.local_addr(), 11, &web).await;
    assert_eq!(
        (reply.metadata.response_code, reply.answers.len()),
        (ResponseCode::NoError, 0)
    );
}

#[tokio::test]
async fn other_names_are_forwarded_and_kept_for_a_while() {
    let (address, count) = upstream().await;
    // The first upstream is dead: its port answers with ICMP at once.
    let dead = UdpSocket::bind((loopback(55), 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let (server, _table) = start(&[dead, address]);
    let question = query("Example.Com.", RecordType::A);
    let reply = ask_udp(server.local_addr(), 11, &question).await;
    assert_eq!(reply.answers[0].data, RData::A(A(Ipv4Addr::new(192, 0, 2, 1))));
    assert_eq!(reply.answers[0].name.to_ascii(), "Example.Com.");
    assert_eq!(reply.metadata.id, 77);
    ask_udp(server.local_addr(), 11, &query("example.com.", RecordType::A)).await;
    assert_eq!(
        count.load(Ordering::Relaxed),
        1,
        "the second answer came from the cache"
    );
    let refused = ask_udp(server.local_addr(), 12, &question).await;
    assert_eq!(
        refused.metadata.response_code,
        ResponseCode::NXDomain,
        "internal networks do not forward"
    );
}

#[tokio::test]
async fn upstream_is_asked_over_tcp_when_udp_does_not_do() {
    let (address, _count) = upstream().await;
    let (server, _table) = start(&[address]);
    for name in ["big.example.com.", "fold.example.com."] {
        let reply = ask_udp(server.local_addr(), 11, &query(name, RecordType::A)).await;
        assert_eq!(reply.answers.len(), 1, "{name}");
        assert!(!reply.metadata.truncation);
    }
}

#[tokio::test]
async fn a_silent_upstream_fails_in_time_and_holds_up_nobody() {
    let silent = UdpSocket::bind((loopback(56), 0)).await.unwrap();
    let (server, _table) = start(&[silent.local_addr().unwrap()]);
    let at = server.local_addr();
    let slow = tokio::spawn(async move { ask_udp(at, 11, &query("example.com.", RecordType::A)).await });
    timeout(PATIENCE, silent.recv_from(&mut [0; 512]))
        .await
        .unwrap()
        .unwrap();
    // One client takes all of its places upstream ...
    let flood = UdpSocket::bind((loopback(11), 0)).await.unwrap();
    for number in 0..200 {
        let question = query(&format!("n{number}.example.com."), RecordType::A);
        flood.send_to(&question.to_vec().unwrap(), at).await.unwrap();
    }
    // ... and still has its own names.
    assert_eq!(
        ask_udp(at, 11, &query("web.", RecordType::A)).await.answers.len(),
        1
    );
    assert!(!slow.is_finished(), "names of the swarm do not wait for upstream");
    assert_eq!(slow.await.unwrap().metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn connections_of_one_client_are_bounded_and_noise_ends_one() {
    let (server, _table) = start(&[]);
    let mut open = Vec::new();
    for _ in 0..32 {
        let mut stream = connect(server.local_addr(), 11).await;
        ask_on(&mut stream, &query("web.", RecordType::A)).await;
        open.push(stream);
    }
    let mut refused = connect(server.local_addr(), 11).await;
    let read = timeout(PATIENCE, refused.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "closed at once");
    let mut other = connect(server.local_addr(), 12).await;
    ask_on(&mut other, &query("db.", RecordType::A)).await;
    // A frame of nothing is not a query: the connection ends.
    open[0].write_all(&[0, 0]).await.unwrap();
    assert_eq!(
        timeout(PATIENCE, open[0].read(&mut [0; 1]))
            .await
            .unwrap()
            .unwrap(),
        0
    );
}

#[tokio::test]
async fn a_stopped_server_gives_its_address_back() {
    let (server, _sender) = start(&[]);
    let at = server.local_addr();
    let mut stream = connect(at, 11).await;
    ask_on(&mut stream, &query("web.", RecordType::A)).await;
    timeout(PATIENCE, server.stop()).await.unwrap();
    let (_sender, receiver) = watch::channel(Arc::new(table()));
    let again = Server::start(at, receiver, vec![]).unwrap();
    assert_eq!(
        ask_udp(again.local_addr(), 11, &query("web.", RecordType::A))
            .await
            .answers
            .len(),
        1
    );
}
