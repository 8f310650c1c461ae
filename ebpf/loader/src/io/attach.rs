//! Programs on interfaces: tcx links, pinned, so that they outlive the agent and are replaced in place; or, where the
//! kernel has no tcx, what `clsact` does in their stead.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::pin::PinError;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, TcAttachType};
use aya::sys::SyscallError;

use crate::io::bpffs::{self, BpffsError};
use crate::io::clsact;
use crate::io::device::{self, DeviceError};
use crate::io::object::{self, ObjectError};
use crate::io::whole;

/// The programs of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    Container,
    Overlay,
    Uplink,
    Host,
}

impl Program {
    pub const ALL: &'static [Program] = &[
        Program::Container,
        Program::Overlay,
        Program::Uplink,
        Program::Host,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Program::Container => "from_container",
            Program::Overlay => "from_overlay",
            Program::Uplink => "from_uplink",
            Program::Host => "from_host",
        }
    }
}

/// How programs get onto interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Kernel 6.6 and later.
    Tcx,
    Clsact,
}

/// A program on the ingress of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub program: Program,
    pub ifindex: u32,
}

impl Place {
    pub fn file_name(self) -> String {
        format!("link_{}_{}", self.program.name(), self.ifindex)
    }

    fn pin(self, pins: &Path) -> PathBuf {
        pins.join(self.file_name())
    }

    fn parse(name: &str) -> Option<Self> {
        let (program, ifindex) = name.strip_prefix("link_")?.rsplit_once('_')?;
        let program = *Program::ALL.iter().find(|p| p.name() == program)?;
        Some(Self {
            program,
            ifindex: ifindex.parse().ok()?,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    #[error("open pinned link {path}: {}", whole(source))]
    Open { path: PathBuf, source: LinkError },
    #[error("attach {program} to interface {interface}: {}", whole(source))]
    Attach {
        program: &'static str,
        interface: Box<str>,
        source: ProgramError,
    },
    #[error("keep the link of {program} on interface {ifindex}: {}", whole(source))]
    Keep {
        program: &'static str,
        ifindex: u32,
        source: LinkError,
    },
    #[error("detach {program} from interface {interface}: {}", whole(source))]
    Detach {
        program: &'static str,
        interface: Box<str>,
        source: ProgramError,
    },
    #[error("pin {path}: {}", whole(source))]
    Pin { path: PathBuf, source: PinError },
}

/// Places that have a pinned link. Interfaces may be gone.
pub fn attached(pins: &Path) -> Result<Vec<Place>, AttachError> {
    Ok(bpffs::list(pins)?
        .iter()
        .filter_map(|name| Place::parse(name))
        .collect())
}

/// Puts the program in its place: into the pinned link if there is a living one, else by a new link, first in order.
pub fn attach(object: &mut Ebpf, pins: &Path, place: Place, hook: Hook) -> Result<(), AttachError> {
    if hook == Hook::Clsact {
        return clsact::attach(object, pins, place);
    }
    let path = place.pin(pins);
    if replace_link(object, &path, place)? {
        return Ok(());
    }
    bpffs::remove(&path)?;
    let interface = device::name(place.ifindex)?;
    let program = object::get(object, place.program)?;
    let failed = |source| AttachError::Attach {
        program: place.program.name(),
        interface: interface.as_str().into(),
        source,
    };
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(&interface, TcAttachType::Ingress, options)
        .map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    let link: FdLink = link.try_into().map_err(|source| AttachError::Keep {
        program: place.program.name(),
        ifindex: place.ifindex,
        source,
    })?;
    // The pin holds the link; ours may be closed.
    drop(
        link.pin(&path)
            .map_err(|source| AttachError::Pin { path, source })?,
    );
    Ok(())
}

/// Puts the program where an older one of ours is. `false`: there is none any more; an interface may be gone, and its
/// number may belong to another one by now, which is not touched.
pub fn replace(object: &mut Ebpf, pins: &Path, place: Place, hook: Hook) -> Result<bool, AttachError> {
    match hook {
        Hook::Tcx => replace_link(object, &place.pin(pins), place),
        Hook::Clsact => clsact::replace(object, place),
    }
}

/// `false`: there is no pinned link, or its interface is gone (the kernel answers ENOLINK).
fn replace_link(object: &mut Ebpf, path: &Path, place: Place) -> Result<bool, AttachError> {
    let pinned = match PinnedLink::from_pin(path) {
        Ok(pinned) => pinned,
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            return Ok(false);
        }
        Err(source) => {
            return Err(AttachError::Open {
                path: path.to_path_buf(),
                source,
            });
        }
    };
    let keep = |source| AttachError::Keep {
        program: place.program.name(),
        ifindex: place.ifindex,
        source,
    };
    let link: SchedClassifierLink = FdLink::from(pinned).try_into().map_err(keep)?;
    let program = object::get(object, place.program)?;
    let failed = |source| AttachError::Attach {
        program: place.program.name(),
        interface: place.ifindex.to_string().into(),
        source,
    };
    match program.attach_to_link(link) {
        Ok(id) => {
            // Out of aya's hands, so that dropping the object detaches nothing. The pin stays.
            drop(program.take_link(id).map_err(failed)?);
            Ok(true)
        }
        Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
            if io_error.raw_os_error() == Some(libc::ENOLINK) =>
        {
            Ok(false)
        }
        Err(source) => Err(failed(source)),
    }
}

/// Takes the program from its place; an interface that is gone is fine.
pub fn detach(pins: &Path, place: Place, hook: Hook) -> Result<(), AttachError> {
    if hook == Hook::Clsact {
        return clsact::detach(pins, place);
    }
    Ok(bpffs::remove(&place.pin(pins))?)
}

/// Removes a whole directory of pins. What hangs in the places of `kept` belongs to another directory already. Goes on
/// after failures and returns them.
pub fn sweep(pins: &Path, kept: &BTreeSet<Place>, hook: Hook) -> Vec<AttachError> {
    let places = match attached(pins) {
        Ok(places) => places,
        Err(error) => return vec![error],
    };
    // One filter serves all versions, a link only its own: it goes with its pin.
    let gone = places
        .into_iter()
        .filter(|place| hook == Hook::Tcx || !kept.contains(place));
    let mut errors: Vec<AttachError> = gone.filter_map(|place| detach(pins, place, hook).err()).collect();
    errors.extend(bpffs::clear(pins).into_iter().map(AttachError::from));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_name_their_place() {
        for program in Program::ALL {
            let place = Place {
                program: *program,
                ifindex: 42,
            };
            let path = place.pin(Path::new("/pins"));
            let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
            assert_eq!(Place::parse(name), Some(place));
        }
        assert_eq!(Place::parse("FLOWS"), None);
        assert_eq!(Place::parse("link_from_nowhere_3"), None);
    }
}
