//! Traffic on all paths at a constant rate, counted packet by packet: what a change of the data plane under it costs.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use skep_ebpf_loader::Datapath;

use crate::lab::Space;

/// What is under way when the sender ends may take this long.
const GRACE: Duration = Duration::from_millis(700);
/// A connection that took longer lost a packet: the kernel sends a SYN again after a second, and data after 0.2 s at least.
const LATE: Duration = Duration::from_millis(900);
const BETWEEN_CONNECTS: Duration = Duration::from_millis(8);

/// From where to where.
pub struct Route<'a> {
    pub name: &'static str,
    pub from: &'a Space,
    pub to: SocketAddr,
}

/// What was lost on one path.
#[derive(Debug, Clone, Default)]
pub struct Lost {
    pub path: &'static str,
    pub sent: u64,
    pub lost: u64,
    pub connects: u64,
    /// Refused, reset or late.
    pub failed: Vec<String>,
    /// Segments that the long connection sent again.
    pub again: u32,
}

impl Lost {
    pub fn is_nothing(&self) -> bool {
        self.lost == 0 && self.failed.is_empty() && self.again == 0
    }
}

/// Echoes datagrams, and the lines of connections.
pub fn serve(space: &Space, port: u16) {
    let address = (Ipv4Addr::UNSPECIFIED, port);
    let (udp, tcp) = space.run(|| (UdpSocket::bind(address), TcpListener::bind(address)));
    let (udp, tcp) = (udp.expect("bind"), tcp.expect("listen"));
    make_room(&udp);
    spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            if udp.send_to(&buffer[..length], peer).is_err() {
                return;
            }
        }
    });
    spawn(move || {
        for stream in tcp.incoming().map_while(Result::ok) {
            spawn(move || {
                let mut lines = BufReader::new(stream);
                let mut line = String::new();
                while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
                    if lines.get_mut().write_all(line.as_bytes()).is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
    });
}

/// A thread that was not scheduled for a while must not look like a lost packet.
fn make_room(socket: &UdpSocket) {
    setsockopt(socket, sockopt::RcvBufForce, &(64 << 20)).expect("receive buffer");
    setsockopt(socket, sockopt::SndBufForce, &(64 << 20)).expect("send buffer");
}

struct Lane {
    name: &'static str,
    socket: Arc<UdpSocket>,
    receiver: JoinHandle<u64>,
    connects: JoinHandle<(u64, Vec<String>)>,
    stream: JoinHandle<(u32, Vec<String>)>,
}

/// Traffic under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Vec<u64>>,
    lanes: Vec<Lane>,
}

impl Load {
    /// `rate`: datagrams a second on every route. Beside them each has one long connection and many short ones.
    pub fn start(routes: &[Route<'_>], rate: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let lanes: Vec<Lane> = routes.iter().map(|route| Lane::open(route, &stop)).collect();
        let sockets: Vec<Arc<UdpSocket>> = lanes.iter().map(|lane| lane.socket.clone()).collect();
        let until = stop.clone();
        let sender = spawn(move || send(&sockets, rate, &until));
        Self { stop, sender, lanes }
    }

    pub fn finish(self) -> Vec<Lost> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("sender");
        let lanes = self.lanes.into_iter().zip(sent);
        lanes
            .map(|(lane, sent)| {
                let received = lane.receiver.join().expect("receiver");
                let (connects, mut failed) = lane.connects.join().expect("connects");
                let (again, broken) = lane.stream.join().expect("stream");
                failed.extend(broken);
                Lost {
                    path: lane.name,
                    sent,
                    lost: sent - received,
                    connects,
                    failed,
                    again,
                }
            })
            .collect()
    }
}

impl Lane {
    fn open(route: &Route<'_>, stop: &Arc<AtomicBool>) -> Self {
        let socket = route.from.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(route.to)?;
            std::io::Result::Ok(socket)
        });
        let socket = Arc::new(socket.expect("a socket"));
        make_room(&socket);
        socket.set_read_timeout(Some(GRACE)).expect("timeout");
        // Neighbours are known before the counting begins.
        for _ in 0..3 {
            socket.send(&u64::MAX.to_ne_bytes()).expect("send");
            assert_eq!(socket.recv(&mut [0; 64]).expect(route.name), 8);
        }
        let (to, space) = (route.to, route.from.name.clone());
        let stream = route.from.run(|| TcpStream::connect(to)).expect("connect");
        let (first, second) = (stop.clone(), stop.clone());
        Self {
            name: route.name,
            receiver: {
                let (socket, stop) = (socket.clone(), stop.clone());
                spawn(move || receive(&socket, &stop))
            },
            connects: spawn(move || {
                Space::enter(&space);
                connect(to, &first)
            }),
            stream: spawn(move || talk(stream, &second)),
            socket,
        }
    }
}

/// Numbered datagrams on all sockets, as many each millisecond as the rate asks for. Answers how many each sent.
fn send(sockets: &[Arc<UdpSocket>], rate: u64, stop: &AtomicBool) -> Vec<u64> {
    let begin = Datapath::now().expect("a clock");
    let mut sent = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let due = (Datapath::now().expect("a clock") - begin).as_micros() as u64 * rate / 1_000_000;
        while sent < due {
            for socket in sockets {
                // A refusal of the datagram before would be told here: it is counted as lost already.
                if socket.send(&sent.to_ne_bytes()).is_err() {
                    socket.send(&sent.to_ne_bytes()).expect("send");
                }
            }
            sent += 1;
        }
        sleep(Duration::from_millis(1));
    }
    vec![sent; sockets.len()]
}

/// How many different datagrams came back.
fn receive(socket: &UdpSocket, stop: &AtomicBool) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let mut buffer = [0; 8];
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                seen.insert(u64::from_ne_bytes(buffer));
            }
            Err(_) if stop.load(Ordering::Relaxed) => return seen.len() as u64,
            Err(_) => {}
        }
    }
}

/// Short connections one after the other, each with a question and its answer.
fn connect(to: SocketAddr, stop: &AtomicBool) -> (u64, Vec<String>) {
    let (mut count, mut failed) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let begin = Datapath::now().expect("a clock");
        let asked = ask(to);
        let took = Datapath::now().expect("a clock") - begin;
        count += 1;
        match asked {
            Ok(9) if took < LATE => {}
            Ok(length) => failed.push(format!("{length} bytes after {took:?}")),
            Err(error) => failed.push(format!("{error} after {took:?}")),
        }
        sleep(BETWEEN_CONNECTS);
    }
    (count, failed)
}

fn ask(to: SocketAddr) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(b"question\n")?;
    BufReader::new(stream).read_line(&mut String::new())
}

/// One connection that says a line every few milliseconds. Answers how many segments went twice.
fn talk(stream: TcpStream, stop: &AtomicBool) -> (u32, Vec<String>) {
    stream.set_nodelay(true).expect("no delay");
    stream
        .set_read_timeout(Some(Duration::from_secs(3)))
        .expect("timeout");
    let mut lines = BufReader::new(stream);
    let mut broken = Vec::new();
    while !stop.load(Ordering::Relaxed) && broken.is_empty() {
        let mut line = String::new();
        let said = lines
            .get_mut()
            .write_all(b"line\n")
            .and_then(|()| lines.read_line(&mut line));
        if !matches!(said, Ok(5)) {
            broken.push(format!("the long connection: {said:?}"));
        }
        sleep(Duration::from_millis(2));
    }
    (retransmitted(lines.get_ref()), broken)
}

/// Segments sent again, less those that the other side got twice: a server that was not scheduled for a while lost nothing.
fn retransmitted(stream: &TcpStream) -> u32 {
    let mut info = [0_u8; 232];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: getsockopt writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    assert_eq!(result, 0);
    // Offsets of tcpi_total_retrans and tcpi_dsack_dups in `struct tcp_info` (linux/tcp.h).
    let field = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    field(100).saturating_sub(field(216))
}

/// Datagrams a second that come back when they are sent as fast as they can, over all routes together.
pub fn capacity(routes: &[Route<'_>]) -> u64 {
    let time = Duration::from_millis(300);
    let mut rates = Vec::new();
    for route in routes {
        let socket = route.from.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
        let socket = socket.expect("bind");
        make_room(&socket);
        socket.connect(route.to).expect("connect");
        let begin = Datapath::now().expect("a clock");
        let (mut sent, mut back) = (0_u64, 0_u64);
        socket.set_nonblocking(true).expect("no waiting");
        while Datapath::now().expect("a clock") - begin < time {
            // No more under way than a queue of the kernel holds.
            if sent - back < 200 && socket.send(&sent.to_ne_bytes()).is_ok() {
                sent += 1;
            }
            if socket.recv(&mut [0; 64]).is_ok() {
                back += 1;
            }
        }
        let took = (Datapath::now().expect("a clock") - begin).as_secs_f64();
        rates.push(back as f64 / took);
    }
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    println!("capacity of each path alone: {rates:.0?} datagrams a second");
    mean as u64
}
