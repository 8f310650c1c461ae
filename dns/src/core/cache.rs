//! A small cache of upstream answers. It exists to absorb repetition (one name asked by many containers
//! in the same second), not to be a resolver's cache: entries live for seconds.

use std::collections::HashMap;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::RData;

/// The longest time an answer is kept, whatever its TTL says.
const MAX_AGE: Duration = Duration::from_secs(30);
/// The longest time the absence of a name or record is kept.
const MAX_NEGATIVE_AGE: Duration = Duration::from_secs(5);
/// Larger answers are not kept, so that the number of entries bounds the memory.
const MAX_RECORDS: usize = 32;

#[derive(Debug)]
struct Entry {
    message: Message,
    stored: Duration,
    expires: Duration,
}

/// Upstream answers by question. Times are durations since any fixed moment and never go back.
#[derive(Debug)]
pub struct Cache {
    entries: HashMap<Query, Entry>,
    capacity: usize,
}

impl Cache {
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            capacity,
        }
    }

    /// The kept answer, its TTLs less by the time it has lain here.
    pub fn get(&self, query: &Query, now: Duration) -> Option<Message> {
        let entry = self.entries.get(&key(query))?;
        if now >= entry.expires {
            return None;
        }
        let age_s = u32::try_from(now.saturating_sub(entry.stored).as_secs()).unwrap_or(u32::MAX);
        let mut message = entry.message.clone();
        let sections = [
            &mut message.answers,
            &mut message.authorities,
            &mut message.additionals,
        ];
        for record in sections.into_iter().flatten() {
            record.ttl = record.ttl.saturating_sub(age_s);
        }
        Some(message)
    }

    /// Keeps an answer if it may be kept. When the cache is full of living entries it is not kept:
    /// they go within [`MAX_AGE`], and a flood of random names shall not drive out useful ones.
    pub fn put(&mut self, query: &Query, message: &Message, now: Duration) {
        let Some(age) = age(message) else { return };
        let key = key(query);
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            self.entries.retain(|_, entry| now < entry.expires);
            if self.entries.len() >= self.capacity {
                return;
            }
        }
        let entry = Entry {
            message: message.clone(),
            stored: now,
            expires: now + age,
        };
        self.entries.insert(key, entry);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Names hash regardless of case, but lower case keeps the stored form the same too.
fn key(query: &Query) -> Query {
    let mut key = query.clone();
    key.set_name(query.name().to_lowercase());
    key
}

fn age(message: &Message) -> Option<Duration> {
    let records = message.answers.len() + message.authorities.len() + message.additionals.len();
    if message.metadata.truncation || records > MAX_RECORDS {
        return None;
    }
    let age = match message.metadata.response_code {
        ResponseCode::NoError if !message.answers.is_empty() => {
            let ttl_s = message.answers.iter().map(|record| record.ttl).min()?;
            Duration::from_secs(u64::from(ttl_s)).min(MAX_AGE)
        }
        // RFC 2308 section 5: the lesser of the SOA's TTL and its minimum field; without SOA not at all.
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let ttl_s = message.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            })?;
            Duration::from_secs(u64::from(ttl_s)).min(MAX_NEGATIVE_AGE)
        }
        _ => return None,
    };
    (!age.is_zero()).then_some(age)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, Record, RecordType};

    use super::*;

    fn query(name: &str) -> Query {
        Query::query(Name::from_ascii(name).unwrap(), RecordType::A)
    }

    fn reply(name: &str, ttl_s: u32) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        let data = RData::A(A(Ipv4Addr::LOCALHOST));
        message.add_answer(Record::from_rdata(Name::from_ascii(name).unwrap(), ttl_s, data));
        message
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn ages_and_expires() {
        let mut cache = Cache::new(8);
        cache.put(&query("a.example."), &reply("a.example.", 10), s(100));
        let kept = cache.get(&query("A.Example."), s(104)).unwrap();
        assert_eq!(kept.answers[0].ttl, 6);
        assert!(cache.get(&query("a.example."), s(110)).is_none());
        assert!(cache.get(&query("b.example."), s(101)).is_none());
    }

    #[test]
    fn a_long_ttl_is_capped() {
        let mut cache = Cache::new(8);
        cache.put(&query("a."), &reply("a.", 86_400), s(0));
        assert!(cache.get(&query("a."), s(29)).is_some());
        assert!(cache.get(&query("a."), s(30)).is_none());
    }

    #[test]
    fn failures_are_not_kept_and_absence_needs_an_soa() {
        let mut cache = Cache::new(8);
        let failure = Message::error_msg(1, OpCode::Query, ResponseCode::ServFail);
        cache.put(&query("a."), &failure, s(0));
        let mut absent = Message::error_msg(1, OpCode::Query, ResponseCode::NXDomain);
        cache.put(&query("b."), &absent, s(0));
        assert_eq!(cache.len(), 0);
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 3);
        absent.add_authority(Record::from_rdata(Name::root(), 60, RData::SOA(soa)));
        cache.put(&query("b."), &absent, s(0));
        assert!(cache.get(&query("b."), s(2)).is_some());
        assert!(cache.get(&query("b."), s(3)).is_none());
    }

    #[test]
    fn never_above_capacity_and_usable_again_after_a_flood() {
        let mut cache = Cache::new(4);
        for number in 0..100 {
            cache.put(&query(&format!("n{number}.")), &reply("x.", 5), s(0));
        }
        assert_eq!(cache.len(), 4);
        cache.put(&query("late."), &reply("late.", 5), s(6));
        assert!(cache.get(&query("late."), s(7)).is_some());
    }
}
