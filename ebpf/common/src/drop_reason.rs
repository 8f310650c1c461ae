//! Why a packet was not let through. Every early exit of a program names one.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        /// Index into the drop counters. Numbers are stable: they are pinned together with the map.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum DropReason { $($(#[$doc])* $name = $value,)* }

        impl DropReason {
            /// All reasons, by number.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// For the user.
            pub const fn text(self) -> &'static str {
                match self { $(DropReason::$name => $text,)* }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its own headers say.
    Malformed = 1, "malformed packet";
    UnsupportedProtocol = 2, "protocol not carried (broadcast, multicast, IPv6 or non-IP)";
    UnknownInterface = 3, "interface belongs to no endpoint";
    SpoofedMac = 4, "source MAC is not the container's";
    SpoofedAddress = 5, "source address is not the container's";
    SpoofedArp = 6, "ARP sender is not the container";
    ArpUnknown = 7, "ARP for an address nobody has";
    NoSuchEndpoint = 8, "no such address in the network";
    DeadNode = 9, "endpoint's node is gone";
    InternalNetwork = 10, "internal network has no way out";
    NoBackend = 11, "service has no running task";
    TooBig = 12, "packet larger than the network's MTU";
    FragmentUnknown = 13, "fragment without its first fragment";
    FlowTableFull = 14, "flow table full";
    FlowCollision = 15, "two flows translate to the same addresses and ports";
    UnknownPeer = 16, "overlay packet from an address that is no node's";
    UnknownNetwork = 17, "overlay packet for a network this node does not have";
    PeerSpoofed = 18, "overlay packet with a source that does not live on the sending node";
    NotLocal = 19, "overlay packet for an endpoint that is not here";
    UnknownFlow = 20, "packet of a flow nobody knows";
    MeshLoop = 21, "mesh packet forwarded twice";
    MeshReturnUnknown = 22, "reply of a mesh flow whose return node is unknown";
    HostToOverlay = 23, "node's own traffic to an overlay address";
    ControlPort = 24, "container to a control port of its node";
    RewriteFailed = 25, "kernel refused to rewrite the packet";
    ReplyFailed = 26, "kernel refused to build an answer";
    Answered = 27, "answered in place";
    MissingConfig = 28, "data plane not configured";
    IngressArp = 29, "ARP for an ingress address, not this node's to answer";
    NotHeld = 30, "port of an ingress address that is not published, on a node that does not hold it";
    NoRoute = 31, "no route to the client of a published port";
}

impl DropReason {
    /// The reason with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| *reason as u32 == number)
    }
}
