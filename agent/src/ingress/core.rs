//! Pure functions of ingress addresses: no clock, no socket.
//!
//! - [`place`]: which interface of this node an address belongs on;
//! - [`announce`]: the ARP packets that lead an address here, and when they are sent;
//! - [`carry`]: which addresses and routes the interfaces must get or lose;
//! - [`ended`]: this node's tasks that have ended before any manager said so;
//! - [`foreign`]: whether packets with another node's source address arrive;
//! - [`shown`]: who holds what, in the words of `skep ingress ls`.

pub mod announce;
pub mod carry;
pub mod ended;
pub mod foreign;
pub mod place;
pub mod shown;
