//! From the bytes of a query to the bytes of a reply, or to the decision to forward it.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::answer::{Answer, Kind, Question, TTL_S, answer};
use crate::table::Table;

/// Bytes of a UDP reply that no path fragments (DNS flag day 2020), and what we offer to others.
pub const UDP_PAYLOAD: u16 = 1232;
const HEADER_LEN: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What to do with a received message.
#[derive(Debug)]
pub enum Step {
    /// Not a query at all: answering could be used for reflection or start a loop.
    Ignore,
    Reply(Vec<u8>),
    Forward(Request),
}

/// A well-formed query with one question, and how large its reply may be.
#[derive(Clone, Debug)]
pub struct Request {
    metadata: Metadata,
    query: Query,
    has_edns: bool,
    limit: usize,
}

/// Answers `bytes` from the table, or says that upstream must be asked. `turn` orders several addresses.
pub fn respond(table: &Table, client: IpAddr, bytes: &[u8], transport: Transport, turn: u64) -> Step {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Step::Ignore;
    };
    if header[2] & 0x80 != 0 {
        return Step::Ignore;
    }
    // The count is looked at before anything is parsed: the parser reserves room for as many questions
    // as the header claims.
    if header[4..6] != [0, 1] {
        return Step::Reply(bare_reply(header, ResponseCode::FormErr));
    }
    let Ok(message) = Message::from_vec(bytes) else {
        return Step::Reply(bare_reply(header, ResponseCode::FormErr));
    };
    let Some(request) = Request::new(&message, transport) else {
        return Step::Reply(bare_reply(header, ResponseCode::FormErr));
    };
    if message.version() > 0 {
        return Step::Reply(request.refuse(ResponseCode::BADVERS));
    }
    if message.metadata.op_code != OpCode::Query {
        return Step::Reply(request.refuse(ResponseCode::NotImp));
    }
    if request.query.query_class() != DNSClass::IN {
        return Step::Reply(request.refuse(ResponseCode::Refused));
    }
    match answer(table, client, &question(&request.query), turn) {
        Answer::Addresses(addresses) => Step::Reply(request.addresses(&addresses)),
        Answer::Name(name) => Step::Reply(request.pointer(&name)),
        Answer::NoData => Step::Reply(request.refuse(ResponseCode::NoError)),
        Answer::NxDomain => Step::Reply(request.refuse(ResponseCode::NXDomain)),
        Answer::Refused => Step::Reply(request.refuse(ResponseCode::Refused)),
        Answer::Forward => Step::Forward(request),
    }
}

/// A reply of nothing but a header, for what could not be read any further.
fn bare_reply(header: &[u8; HEADER_LEN], code: ResponseCode) -> Vec<u8> {
    let mut reply = vec![0; HEADER_LEN];
    reply[..2].copy_from_slice(&header[..2]);
    // QR, and OPCODE and RD as they came.
    reply[2] = 0x80 | (header[2] & 0x79);
    reply[3] = code.low();
    reply
}

fn question(query: &Query) -> Question {
    if query.query_type() == RecordType::PTR
        && let Ok(net) = query.name().parse_arpa_name()
        && net.prefix_len() == net.max_prefix_len()
    {
        return Question::Reverse(net.addr());
    }
    let kind = match query.query_type() {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::ANY => Kind::Any,
        _ => Kind::Other,
    };
    // Escapes odd bytes (a dot within a label among them), so that nothing but the name itself matches.
    let mut name = query.name().to_ascii();
    if name.ends_with('.') {
        name.pop();
    }
    Question::Name { name, kind }
}

impl Request {
    fn new(message: &Message, transport: Transport) -> Option<Self> {
        let query = message.queries.first()?.clone();
        let limit = match transport {
            Transport::Udp => message.max_payload().min(UDP_PAYLOAD),
            Transport::Tcp => u16::MAX,
        };
        Some(Self {
            metadata: message.metadata,
            query,
            has_edns: message.edns.is_some(),
            limit: usize::from(limit),
        })
    }

    pub fn query(&self) -> &Query {
        &self.query
    }

    /// The same question for an upstream server. The name's case is the caller's to vary.
    pub fn for_upstream(&self, id: u16, name: Name) -> Message {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.metadata.checking_disabled;
        let mut query = self.query.clone();
        query.set_name(name);
        message.add_query(query);
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD);
        message.set_edns(edns);
        message
    }

    /// Passes on an upstream's answer under this request's id, question and size limit.
    pub fn relay(&self, upstream: &Message) -> Vec<u8> {
        let mut message = self.response(upstream.metadata.response_code);
        message.answers.clone_from(&upstream.answers);
        message.authorities.clone_from(&upstream.authorities);
        message.additionals.clone_from(&upstream.additionals);
        for record in &mut message.answers {
            // Upstream saw the name in another mix of cases; names compare regardless of case.
            if record.name == *self.query.name() {
                record.name = self.query.name().clone();
            }
        }
        self.encode(message)
    }

    /// A reply with a code and no record.
    pub fn refuse(&self, code: ResponseCode) -> Vec<u8> {
        let mut message = self.response(code);
        message.metadata.authoritative = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        self.encode(message)
    }

    fn addresses(&self, addresses: &[IpAddr]) -> Vec<u8> {
        self.records(addresses.iter().map(|address| match address {
            IpAddr::V4(address) => RData::A(A(*address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
        }))
    }

    fn pointer(&self, name: &str) -> Vec<u8> {
        // A name that DNS cannot carry (longer than 255 bytes, or a label above 63) is no data.
        let name = Name::from_ascii(name).ok().map(|mut name| {
            name.set_fqdn(true);
            RData::PTR(PTR(name))
        });
        self.records(name.into_iter())
    }

    fn records(&self, data: impl Iterator<Item = RData>) -> Vec<u8> {
        let mut message = self.response(ResponseCode::NoError);
        message.metadata.authoritative = true;
        message.add_answers(data.map(|data| Record::from_rdata(self.query.name().clone(), TTL_S, data)));
        self.encode(message)
    }

    fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.metadata.id, self.metadata.op_code);
        message.metadata = Metadata::response_from_request(&self.metadata);
        // glibc takes an empty answer without this bit for a lame delegation and asks the next server.
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        if self.has_edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD);
            message.set_edns(edns);
        }
        message
    }

    /// Encodes within the size limit. What does not fit goes from the end, and TC is set when an answer
    /// went: resolvers without TCP (musl before 1.2.4) use the answers that are left.
    fn encode(&self, mut message: Message) -> Vec<u8> {
        loop {
            let Ok(bytes) = message.to_vec() else {
                return self.server_failure();
            };
            if bytes.len() <= self.limit {
                return bytes;
            }
            if !message.additionals.is_empty() {
                message.additionals.clear();
            } else if !message.authorities.is_empty() {
                message.authorities.clear();
            } else if message.answers.is_empty() {
                return self.server_failure();
            } else {
                let count = message.answers.len();
                message
                    .answers
                    .truncate((count * self.limit / bytes.len()).min(count - 1));
                message.metadata.truncation = true;
            }
        }
    }

    fn server_failure(&self) -> Vec<u8> {
        let mut header = [0; HEADER_LEN];
        header[..2].copy_from_slice(&self.metadata.id.to_be_bytes());
        header[2] = u8::from(self.metadata.recursion_desired);
        bare_reply(&header, ResponseCode::ServFail)
    }
}

#[cfg(test)]
mod tests;
