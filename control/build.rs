//! Generates the gRPC glue of node RPC. The messages are hand-written (`src/rpc/wire.rs`), so protoc is not needed.

use tonic_prost_build::manual::{Builder, Method, Service};

/// Name, request, answer; a leading `stream ` marks a stream.
type Rpc = (&'static str, &'static str, &'static str);

const RAFT: &[Rpc] = &[
    ("Append", "AppendRequest", "AppendReply"),
    ("Vote", "VoteRequest", "VoteReply"),
    ("InstallSnapshot", "stream SnapshotChunk", "SnapshotReply"),
    ("PreVote", "PreVoteRequest", "PreVoteReply"),
];
const CONTROL: &[Rpc] = &[
    ("Propose", "ProposeRequest", "ProposeReply"),
    ("ReadIndex", "ReadIndexRequest", "ReadIndexReply"),
    ("Health", "HealthRequest", "HealthReply"),
    (
        "CreateAttachment",
        "crate::model::CreateAttachment",
        "ProposeReply",
    ),
    (
        "UpdateAttachment",
        "crate::model::UpdateAttachment",
        "ProposeReply",
    ),
];
const CA: &[Rpc] = &[
    ("GetRoot", "RootRequest", "RootReply"),
    ("Issue", "IssueRequest", "IssueReply"),
    ("Renew", "RenewRequest", "RenewReply"),
];
const MEMBERSHIP: &[Rpc] = &[
    ("Join", "JoinRequest", "MembershipReply"),
    ("Leave", "LeaveRequest", "MembershipReply"),
];
const LOGS: &[Rpc] = &[
    ("Order", "OrderLog", "LogOrdered"),
    ("Publish", "stream LogPiece", "stream Nothing"),
];
const DISPATCHER: &[Rpc] = &[("Session", "stream NodeToManager", "stream ManagerToNode")];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let services = [
        service("Raft", RAFT),
        service("Control", CONTROL),
        service("Ca", CA),
        service("Membership", MEMBERSHIP),
        service("Dispatcher", DISPATCHER),
        service("Logs", LOGS),
    ];
    Builder::new().compile(&services);
}

fn service(name: &str, rpcs: &[Rpc]) -> Service {
    let builder = Service::builder().name(name).package("skep.v1");
    rpcs.iter()
        .fold(builder, |service, rpc| service.method(method(rpc)))
        .build()
}

fn method((route, request, answer): &Rpc) -> Method {
    let mut builder = Method::builder()
        .name(snake_case(route))
        .route_name(route)
        .input_type(path(request))
        .output_type(path(answer))
        .codec_path("tonic_prost::ProstCodec");
    if request.starts_with("stream ") {
        builder = builder.client_streaming();
    }
    if answer.starts_with("stream ") {
        builder = builder.server_streaming();
    }
    builder.build()
}

fn path(name: &str) -> String {
    match name.trim_start_matches("stream ") {
        full if full.contains("::") => full.to_string(),
        short => format!("crate::rpc::wire::{short}"),
    }
}

fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for (position, character) in name.chars().enumerate() {
        if character.is_uppercase() && position > 0 {
            text.push('_');
        }
        text.push(character.to_ascii_lowercase());
    }
    text
}
