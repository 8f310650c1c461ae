//! The certificate authority's calls: the root and a first certificate for anybody with a token, renewal for members.

use tonic::{Request, Response, Status};

use super::{Allowed, Desk};
use crate::ca::authority::{Authority, AuthorityError, NODE_LIFE};
use crate::ca::token;
use crate::core::root;
use crate::manager::{ControlError, Propose};
use crate::model::id::object_id;
use crate::model::*;
use crate::rpc::wire::service::ca_server::Ca;
use crate::rpc::wire::*;

fn signing(error: AuthorityError) -> Status {
    match error {
        AuthorityError::Request(_) | AuthorityError::KeyType => Status::invalid_argument(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

fn proposing(error: ControlError) -> Status {
    match error {
        ControlError::Refused(refused) => Status::failed_precondition(refused.message),
        error => Status::unavailable(error.to_string()),
    }
}

impl Desk {
    fn cluster(&self) -> Result<std::sync::Arc<Cluster>, Status> {
        let state = self.group.state();
        let cluster = state.borrow().cluster.clone();
        cluster.ok_or_else(|| Status::unavailable("this manager does not know the swarm yet"))
    }

    /// A certificate by the root that signs now; during a rotation with the new root's key as the old root signed it.
    fn sign(&self, cluster: &Cluster, csr_pem: &str, node_id: &str, role: Role) -> Result<String, Status> {
        let (root_pem, key, chain) = match &cluster.root_rotation {
            Some(rotation) => (
                &rotation.ca_cert,
                &rotation.ca_key,
                rotation.cross_signed.as_str(),
            ),
            None => (&cluster.root_ca_cert, &cluster.root_ca_key, ""),
        };
        let authority = Authority {
            root_pem: root_pem.clone(),
            root_key_pem: key.clone(),
        };
        let life = cluster
            .spec
            .node_cert_expiry
            .map_or(NODE_LIFE, time::Duration::nanoseconds);
        let now = time::OffsetDateTime::now_utc();
        authority
            .sign(csr_pem, node_id, &self.cluster_id, role, now, life)
            .map(|leaf| format!("{leaf}{chain}"))
            .map_err(signing)
    }

    fn managers(&self) -> Vec<String> {
        let state = self.group.state();
        let state = state.borrow();
        let managers = state
            .nodes
            .values()
            .filter(|node| !node.manager_address.is_empty());
        managers.map(|node| node.manager_address.clone()).collect()
    }
}

#[tonic::async_trait]
impl Ca for Desk {
    async fn get_root(&self, _request: Request<RootRequest>) -> Result<Response<RootReply>, Status> {
        let root_pem = self.cluster()?.root_ca_cert.clone();
        Ok(Response::new(RootReply { root_pem }))
    }

    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueReply>, Status> {
        let request = request.into_inner();
        let invalid = || Status::invalid_argument(token::InvalidToken.to_string());
        // Cheap checks first: anybody may call this.
        let form = token::parse(&request.token).map_err(|_| invalid())?;
        if form.root_digest != token::root_digest(&self.cluster()?.root_ca_cert) {
            return Err(invalid());
        }
        // A rotated token must not be taken by a manager that lags behind.
        self.group.barrier().await.map_err(proposing)?;
        let cluster = self.cluster()?;
        let manager = token::same(&request.token, &cluster.manager_token);
        let worker = token::same(&request.token, &cluster.worker_token);
        let role = match (manager, worker) {
            (true, _) => Role::Manager,
            (_, true) => Role::Worker,
            _ => return Err(invalid()),
        };
        let node_id = object_id(rand::random());
        let cert_pem = self.sign(&cluster, &request.csr_pem, &node_id, role)?;
        let node = Node {
            id: node_id,
            spec: NodeSpec {
                role: role as i32,
                availability: request.availability,
                ..Default::default()
            },
            manager_address: if manager {
                request.manager_address
            } else {
                String::new()
            },
            address: request.address,
            data_path_address: request.data_path_address,
            description: request.description,
            state: NodeState::Unknown as i32,
            certificate: cert_pem.clone(),
            // What it fetched to check the token by.
            trust_digest: root::digest(&cluster.root_ca_cert),
            issuer_digest: root::digest(root::signing(&cluster)),
            ..Default::default()
        };
        let applied = self
            .group
            .propose(Change::CreateNode(CreateNode { node }))
            .await
            .map_err(proposing)?;
        Ok(Response::new(IssueReply {
            cert_pem,
            raft_id: applied.raft_id,
            managers: self.managers(),
        }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let names = self.caller(request.extensions(), Allowed::Node)?;
        let cluster = self.cluster()?;
        let role = {
            let state = self.group.state();
            let state = state.borrow();
            let node = state.nodes.get(&names.node_id);
            // Not what its spec asks for: a manager is one until it is out of Raft.
            let member = node.map_or(names.role == Role::Manager, |node| node.raft_id != 0);
            if member { Role::Manager } else { Role::Worker }
        };
        let root_pem = root::trusted(&cluster);
        let cert_pem = self.sign(&cluster, &request.into_inner().csr_pem, &names.node_id, role)?;
        let report = ReportNode {
            id: names.node_id,
            certificate: Some(cert_pem.clone()),
            trust_digest: Some(root::digest(&root_pem)),
            issuer_digest: Some(root::digest(root::signing(&cluster))),
            ..Default::default()
        };
        self.group
            .propose(Change::ReportNode(report))
            .await
            .map_err(proposing)?;
        Ok(Response::new(RenewReply { cert_pem, root_pem }))
    }
}
