//! Programs on interfaces: tcx links, pinned, so that they outlive the agent and are replaced in place; or, where the
//! kernel has no tcx, what `clsact` does in their stead.

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    pub const fn by(self, hook: Hook) -> Placed {
        Placed { place: self, hook }
    }
}

/// A place that has one of our programs, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    pub place: Place,
    pub hook: Hook,
}

impl Placed {
    /// Name of the pin, or of the note about a filter. Layouts 1 and 2 named notes as pins are.
    fn file_name(self) -> String {
        let kind = match self.hook {
            Hook::Tcx => "link",
            Hook::Clsact => "filter",
        };
        format!("{kind}_{}_{}", self.place.program.name(), self.place.ifindex)
    }

    pub fn path(self, pins: &Path) -> PathBuf {
        pins.join(self.file_name())
    }

    fn parse(name: &str, is_directory: bool) -> Option<Self> {
        let name = name
            .strip_prefix("link_")
            .or_else(|| name.strip_prefix("filter_"))?;
        let (program, ifindex) = name.rsplit_once('_')?;
        let program = *Program::ALL.iter().find(|p| p.name() == program)?;
        let place = Place {
            program,
            ifindex: ifindex.parse().ok()?,
        };
        let hook = if is_directory { Hook::Clsact } else { Hook::Tcx };
        Some(Self { place, hook })
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

/// Places that have a pinned link or a noted filter. Interfaces may be gone.
pub fn placed(pins: &Path) -> Result<Vec<Placed>, AttachError> {
    Ok(bpffs::list(pins)?
        .iter()
        .filter_map(|name| Placed::parse(name, pins.join(name).is_dir()))
        .collect())
}

/// Puts the program in its place: where an older one of ours is if there is a living one, else first in order.
pub fn attach(object: &mut Ebpf, pins: &Path, placed: Placed) -> Result<(), AttachError> {
    let place = placed.place;
    if placed.hook == Hook::Clsact {
        return clsact::attach(object, pins, placed);
    }
    let path = placed.path(pins);
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
pub fn replace(object: &mut Ebpf, pins: &Path, placed: Placed) -> Result<bool, AttachError> {
    match placed.hook {
        Hook::Tcx => replace_link(object, &placed.path(pins), placed.place),
        Hook::Clsact => clsact::replace(object, pins, placed.place),
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
pub fn detach(pins: &Path, placed: Placed) -> Result<(), AttachError> {
    match placed.hook {
        Hook::Tcx => Ok(bpffs::remove(&placed.path(pins))?),
        Hook::Clsact => clsact::detach(pins, placed),
    }
}

/// Removes a whole directory of pins, and what hangs by them. Goes on after failures and returns them.
pub fn sweep(pins: &Path) -> Vec<AttachError> {
    let placed = match placed(pins) {
        Ok(placed) => placed,
        Err(error) => return vec![error],
    };
    let mut errors: Vec<AttachError> = placed
        .into_iter()
        .filter_map(|placed| detach(pins, placed).err())
        .collect();
    errors.extend(bpffs::clear(pins).into_iter().map(AttachError::from));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_name_their_place() {
        for program in Program::ALL {
            for hook in [Hook::Tcx, Hook::Clsact] {
                let place = Place {
                    program: *program,
                    ifindex: 42,
                };
                let placed = Placed { place, hook };
                let name = placed.file_name();
                assert_eq!(Placed::parse(&name, hook == Hook::Clsact), Some(placed));
            }
        }
        let note = Placed::parse("link_from_host_7", true).expect("a note of layout 2");
        assert_eq!(note.hook, Hook::Clsact);
        assert_eq!(Placed::parse("FLOWS", false), None);
        assert_eq!(Placed::parse("link_from_nowhere_3", false), None);
    }
}
