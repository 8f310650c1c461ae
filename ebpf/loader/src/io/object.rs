//! The embedded programs, loaded with their maps.

use std::path::Path;

use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader};
use skep_ebpf_common::Config;

use crate::core::sizes::half_open_flows;
use crate::io::attach::Program;
use crate::io::netns::{self, CookieError};
use crate::io::whole;

/// What `cargo xtask build-ebpf` made.
pub const OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SKEP_DATAPATH_OBJECT"));

/// Maps that stand for those of another layout, and the names of these.
const BEFORE: [(&str, &str); 3] = [
    ("FLOWS_BEFORE", "FLOWS"),
    ("HALF_OPEN_BEFORE", "HALF_OPEN"),
    ("FRAGMENTS_BEFORE", "FRAGMENTS"),
];

#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("load the eBPF object: {}", whole(_0))]
    Load(#[source] EbpfError),
    #[error(transparent)]
    Cookie(#[from] CookieError),
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    #[error("load program {program}: {}", whole(source))]
    Program {
        program: &'static str,
        source: ProgramError,
    },
}

/// What is loaded, and on what.
pub struct Source<'a> {
    pub object: &'a [u8],
    /// Maps pinned here are taken over as they are, missing ones are made and pinned.
    pub pins: &'a Path,
    pub max_flows: u32,
    /// Programs of another layout work until the gate opens.
    pub gated: bool,
    /// Directory of another layout whose flows are looked up as well.
    pub flows_of: Option<&'a Path>,
}

/// Loads all programs but those on sockets: a kernel that refuses them still forwards packets.
pub fn load(source: &Source<'_>, config: &Config) -> Result<Ebpf, ObjectError> {
    let (gated, moving) = (u32::from(source.gated), u32::from(source.flows_of.is_some()));
    let cookie = netns::cookie()?;
    let mut loader = EbpfLoader::new();
    loader
        .default_map_pin_directory(source.pins)
        .map_max_entries("FLOWS", source.max_flows)
        .map_max_entries("HALF_OPEN", half_open_flows(source.max_flows))
        .override_global("GATED", &gated, true)
        .override_global("MOVING", &moving, true)
        .override_global("NODE", &config.node, true)
        .override_global("VXLAN_IFINDEX", &config.vxlan_ifindex, true)
        .override_global("HOST_IFINDEX", &config.host_ifindex, true)
        .override_global("MESH_VNI", &config.mesh_vni, true)
        .override_global("MESH_VNI_FORWARDED", &config.mesh_vni_forwarded, true)
        .override_global("RESOLVER_BE", &config.resolver_be, true)
        .override_global("MESH_ADDRESS_BE", &config.mesh_address_be, true)
        .override_global("HOST_MAC", &config.host_mac, true)
        .override_global("NODE_COOKIE", &cookie, true)
        // A map of this kind cannot say by itself that it is pinned.
        .map_pin_path("DIALED", source.pins.join("DIALED"));
    if let Some(before) = source.flows_of {
        for (map, old) in BEFORE {
            loader.map_pin_path(map, before.join(old));
        }
    }
    let mut object = loader.load(source.object).map_err(ObjectError::Load)?;
    for program in Program::ALL {
        let source = |source| ObjectError::Program {
            program: program.name(),
            source,
        };
        get(&mut object, *program)?.load().map_err(source)?;
    }
    Ok(object)
}

/// A loaded program.
pub fn get(object: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, ObjectError> {
    let name = program.name();
    let found = object.program_mut(name).ok_or(ObjectError::Missing(name))?;
    found.try_into().map_err(|source| ObjectError::Program {
        program: name,
        source,
    })
}

/// Name, translated size in bytes and verified instructions of each program.
pub fn sizes(object: &mut Ebpf) -> Result<Vec<(&'static str, u32, u32)>, ObjectError> {
    Program::ALL
        .iter()
        .map(|program| {
            let name = program.name();
            let info = get(object, *program)?
                .info()
                .map_err(|source| ObjectError::Program {
                    program: name,
                    source,
                })?;
            Ok((
                name,
                info.size_translated().unwrap_or(0),
                info.verified_instruction_count().unwrap_or(0),
            ))
        })
        .collect()
}
