//! The node-local network of tasks that are on no overlay.

use std::collections::HashMap;

use bollard::models::NetworkCreateRequest;
use bollard::query_parameters::ListNetworksOptionsBuilder;

use super::{CHANGE, Engine, EngineError, READ, within};

/// Reaches outside, isolates its containers from each other.
const LOCAL_NETWORK: &str = "skep_gwbridge";
const LOCAL_NETWORK_LABEL: &str = "skep.local";

impl Engine {
    /// Makes the network for tasks that are on no overlay exist; answers its id. One at a time: the Engine (before API
    /// 1.44) makes two networks of one name without a word.
    pub async fn ensure_local_network(&self) -> Result<String, EngineError> {
        let _one_at_a_time = self.local_network.lock().await;
        let docker = self.client("list networks like", LOCAL_NETWORK)?;
        let filters = HashMap::from([
            ("name", vec![LOCAL_NETWORK]),
            ("label", vec![LOCAL_NETWORK_LABEL]),
        ]);
        let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
        let call = docker.list_networks(Some(options));
        let known = within("list networks like", LOCAL_NETWORK, READ, call).await?;
        let mut ids: Vec<String> = known
            .into_iter()
            .filter(|n| n.name.as_deref() == Some(LOCAL_NETWORK))
            .filter_map(|n| n.id)
            .collect();
        ids.sort();
        if let Some(id) = ids.into_iter().next() {
            return Ok(id);
        }
        let request = NetworkCreateRequest {
            name: LOCAL_NETWORK.to_string(),
            driver: Some("bridge".to_string()),
            options: Some(HashMap::from([(
                "com.docker.network.bridge.enable_icc".to_string(),
                "false".to_string(),
            )])),
            labels: Some(HashMap::from([(LOCAL_NETWORK_LABEL.to_string(), String::new())])),
            ..NetworkCreateRequest::default()
        };
        Ok(within(
            "create network",
            LOCAL_NETWORK,
            CHANGE,
            docker.create_network(request),
        )
        .await?
        .id)
    }
}
