//! The control plane: model, Raft, planners, Docker API, node RPC, certificate authority.
