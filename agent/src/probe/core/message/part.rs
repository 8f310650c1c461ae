//! The parts of a datagram: what nodes tell each other beyond being alive.

use std::time::Duration;

use crate::probe::core::held::Reason;
use crate::probe::core::watched::Lease;

/// Of one list in a part; longer ones are cut or split before.
pub const MAX_NODES: usize = 256;
pub const MAX_HASHES: usize = 120;

/// One thing told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The sender misses these of the nodes it observes; it hears all others of them.
    Missed(Vec<u32>),
    /// Hashes of the sender's tasks that have ended, one piece of `pieces` of the list `generation`.
    Withdrawn {
        generation: u64,
        piece: u16,
        pieces: u16,
        hashes: Vec<u64>,
    },
    /// The sender wants to hold an address, or to go on holding it.
    Claim(Claim),
    /// An observer's answer to a claim.
    Answer(Answer),
    /// The sender holds the address and wants `to` to take it; claims of the sender up to `number` are over with it.
    Transfer { index: u32, number: u64, to: u32 },
    /// The sender does not take an address that was transferred to it.
    Refuse { index: u32 },
    /// The sender no longer wants what it was granted by claims up to `number`.
    Release { index: u32, number: u64 },
    /// The sender holds the address.
    Holder { index: u32, tenure: Tenure },
    /// What the managers committed, for a node whose epoch is older.
    Config(Lease),
}

/// One node's time with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// Rises with each change of holder.
    pub term: u64,
    pub since_unix_ms: u64,
    pub previous: Option<u32>,
    pub reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub index: u32,
    pub epoch: u64,
    /// Fingerprint of the observers that are asked: majorities of different sets need not meet.
    pub observers: u64,
    /// Rises with each of the sender's claims.
    pub number: u64,
    /// The sender has an unexpired grant of the receiver.
    pub renews: bool,
    /// The sender holds the address, since when and why.
    pub tenure: Option<Tenure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub index: u32,
    /// Of the claim.
    pub number: u64,
    /// Of the observer's own configuration.
    pub epoch: u64,
    pub verdict: Verdict,
    /// The highest term the observer knows of, and who holds it.
    pub term: u64,
    pub holder: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Granted,
    /// Another node has the grant, or (None) nobody may have it yet; for so long.
    Denied {
        to: Option<u32>,
        left: Duration,
    },
    /// The two do not ask the same observers: one of them has an old configuration.
    OtherObservers,
}

#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub fn u16(&mut self, number: u16) {
        self.bytes(&number.to_be_bytes());
    }

    pub fn u32(&mut self, number: u32) {
        self.bytes(&number.to_be_bytes());
    }

    pub fn u64(&mut self, number: u64) {
        self.bytes(&number.to_be_bytes());
    }

    fn node(&mut self, node: Option<u32>) {
        self.0.push(u8::from(node.is_some()));
        self.u32(node.unwrap_or(0));
    }

    fn nodes(&mut self, nodes: &[u32]) {
        let nodes = &nodes[..nodes.len().min(MAX_NODES)];
        // At most MAX_NODES, so it fits.
        self.u16(nodes.len() as u16);
        nodes.iter().for_each(|node| self.u32(*node));
    }

    fn tenure(&mut self, tenure: &Tenure) {
        let (reason, node) = match tenure.reason {
            Reason::Nobody => (0, None),
            Reason::FirstHolder => (1, None),
            Reason::LeaseEnded(node) => (2, Some(node)),
            Reason::HandedOver(node) => (3, Some(node)),
            Reason::GaveUp(node) => (4, Some(node)),
        };
        self.u64(tenure.term);
        self.u64(tenure.since_unix_ms);
        self.node(tenure.previous);
        self.0.push(reason);
        self.node(node);
    }
}

pub struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.take::<1>()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn node(&mut self) -> Option<Option<u32>> {
        let some = self.flag()?;
        let node = self.u32()?;
        Some(some.then_some(node))
    }

    fn nodes(&mut self) -> Option<Vec<u32>> {
        let count = usize::from(self.u16()?);
        (count <= MAX_NODES).then_some(())?;
        (0..count).map(|_| self.u32()).collect()
    }

    fn tenure(&mut self) -> Option<Tenure> {
        let (term, since_unix_ms, previous) = (self.u64()?, self.u64()?, self.node()?);
        let [reason] = self.take::<1>()?;
        let reason = match (reason, self.node()?) {
            (0, None) => Reason::Nobody,
            (1, None) => Reason::FirstHolder,
            (2, Some(node)) => Reason::LeaseEnded(node),
            (3, Some(node)) => Reason::HandedOver(node),
            (4, Some(node)) => Reason::GaveUp(node),
            _ => return None,
        };
        Some(Tenure {
            term,
            since_unix_ms,
            previous,
            reason,
        })
    }
}

impl Part {
    fn kind(&self) -> u8 {
        match self {
            Self::Missed(_) => 1,
            Self::Withdrawn { .. } => 2,
            Self::Claim(_) => 3,
            Self::Answer(_) => 4,
            Self::Transfer { .. } => 5,
            Self::Refuse { .. } => 6,
            Self::Release { .. } => 7,
            Self::Holder { .. } => 8,
            Self::Config(_) => 9,
        }
    }

    /// Kind, length and body.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        self.write(&mut body);
        let mut writer = Writer(vec![self.kind()]);
        // No body is longer than its longest list of 1 kB.
        writer.u16(body.0.len() as u16);
        writer.bytes(&body.0);
        writer.0
    }

    fn write(&self, body: &mut Writer) {
        match self {
            Self::Missed(nodes) => body.nodes(nodes),
            Self::Withdrawn {
                generation,
                piece,
                pieces,
                hashes,
            } => {
                let hashes = &hashes[..hashes.len().min(MAX_HASHES)];
                body.u64(*generation);
                body.u16(*piece);
                body.u16(*pieces);
                body.u16(hashes.len() as u16);
                hashes.iter().for_each(|hash| body.u64(*hash));
            }
            Self::Claim(claim) => write_claim(claim, body),
            Self::Answer(answer) => write_answer(answer, body),
            Self::Transfer { index, number, to } => {
                body.u32(*index);
                body.u64(*number);
                body.u32(*to);
            }
            Self::Refuse { index } => body.u32(*index),
            Self::Release { index, number } => {
                body.u32(*index);
                body.u64(*number);
            }
            Self::Holder { index, tenure } => {
                body.u32(*index);
                body.tenure(tenure);
            }
            Self::Config(lease) => {
                body.u32(lease.index);
                body.u64(lease.epoch);
                body.nodes(&lease.owners);
                body.nodes(&lease.observers);
            }
        }
    }

    /// The next part: Some(None) when its kind is not known, None when it is broken.
    pub fn read(reader: &mut Reader<'_>) -> Option<Option<Self>> {
        let [kind] = reader.take::<1>()?;
        let length = usize::from(reader.u16()?);
        let (body, rest) = reader.0.split_at_checked(length)?;
        reader.0 = rest;
        let mut body = Reader(body);
        let part = match kind {
            1 => Self::Missed(body.nodes()?),
            2 => read_withdrawn(&mut body)?,
            3 => Self::Claim(read_claim(&mut body)?),
            4 => Self::Answer(read_answer(&mut body)?),
            5 => Self::Transfer {
                index: body.u32()?,
                number: body.u64()?,
                to: body.u32()?,
            },
            6 => Self::Refuse { index: body.u32()? },
            7 => Self::Release {
                index: body.u32()?,
                number: body.u64()?,
            },
            8 => Self::Holder {
                index: body.u32()?,
                tenure: body.tenure()?,
            },
            9 => Self::Config(Lease {
                index: body.u32()?,
                epoch: body.u64()?,
                owners: body.nodes()?,
                observers: body.nodes()?,
            }),
            _ => return Some(None),
        };
        body.0.is_empty().then_some(Some(part))
    }
}

fn read_withdrawn(body: &mut Reader<'_>) -> Option<Part> {
    let (generation, piece, pieces) = (body.u64()?, body.u16()?, body.u16()?);
    let count = usize::from(body.u16()?);
    (count <= MAX_HASHES).then_some(())?;
    let hashes = (0..count).map(|_| body.u64()).collect::<Option<_>>()?;
    Some(Part::Withdrawn {
        generation,
        piece,
        pieces,
        hashes,
    })
}

fn write_claim(claim: &Claim, body: &mut Writer) {
    body.u32(claim.index);
    body.u64(claim.epoch);
    body.u64(claim.observers);
    body.u64(claim.number);
    body.0.push(u8::from(claim.renews));
    body.0.push(u8::from(claim.tenure.is_some()));
    claim.tenure.iter().for_each(|tenure| body.tenure(tenure));
}

fn read_claim(body: &mut Reader<'_>) -> Option<Claim> {
    Some(Claim {
        index: body.u32()?,
        epoch: body.u64()?,
        observers: body.u64()?,
        number: body.u64()?,
        renews: body.flag()?,
        tenure: if body.flag()? { Some(body.tenure()?) } else { None },
    })
}

fn write_answer(answer: &Answer, body: &mut Writer) {
    body.u32(answer.index);
    body.u64(answer.number);
    body.u64(answer.epoch);
    let (verdict, to, left) = match answer.verdict {
        Verdict::Granted => (0, None, Duration::ZERO),
        Verdict::Denied { to, left } => (1, to, left),
        Verdict::OtherObservers => (2, None, Duration::ZERO),
    };
    body.0.push(verdict);
    body.node(to);
    body.u32(u32::try_from(left.as_micros()).unwrap_or(u32::MAX));
    body.u64(answer.term);
    body.node(answer.holder);
}

fn read_answer(body: &mut Reader<'_>) -> Option<Answer> {
    let (index, number, epoch) = (body.u32()?, body.u64()?, body.u64()?);
    let [verdict] = body.take::<1>()?;
    let (to, left) = (body.node()?, body.u32()?);
    let verdict = match verdict {
        0 => Verdict::Granted,
        1 => Verdict::Denied {
            to,
            left: Duration::from_micros(left.into()),
        },
        2 => Verdict::OtherObservers,
        _ => return None,
    };
    Some(Answer {
        index,
        number,
        epoch,
        verdict,
        term: body.u64()?,
        holder: body.node()?,
    })
}
