//! Programs on interfaces of kernels without tcx (before 6.6): filters of a clsact qdisc. They outlive the agent because
//! nobody detaches them; an empty directory beside the pinned maps notes each, since a filter cannot be pinned.

use std::path::Path;

use aya::Ebpf;
use aya::programs::links::Link;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, TcAttachType};

use crate::io::attach::{AttachError, Place, Placed};
use crate::io::bpffs;
use crate::io::device::{self, DeviceError};
use crate::io::object;

const PRIORITY: u16 = 1;

/// Ours on every interface: `tc filter show` names them `pref 1 handle 0x736b65..` ("ske"), the last byte being the layout, so
/// that one of another layout stands beside it until it is told to go; the kernel asks the newer one first. Others count
/// from 1: with a handle of their range we would replace somebody else's filter.
fn handle(pins: &Path) -> TcHandle {
    // Layouts 1 and 2 had the "p" there.
    let last = match bpffs::version(pins) {
        None | Some(0..=2) => 0x70,
        Some(layout) => (layout & 0xff) as u16,
    };
    TcHandle::new(0x736b, 0x6500 | last)
}

/// Puts the program in its place; a filter of ours that is there is replaced in one step.
pub fn attach(object: &mut Ebpf, pins: &Path, placed: Placed) -> Result<(), AttachError> {
    let place = placed.place;
    let interface = device::name(place.ifindex)?;
    let failed = |source| AttachError::Attach {
        program: place.program.name(),
        interface: interface.as_str().into(),
        source,
    };
    match qdisc_add_clsact(&interface) {
        Ok(()) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(failed(error.into())),
    }
    if !replace(object, pins, place)? {
        let program = object::get(object, place.program)?;
        let options = TcAttachOptions::Netlink(NlOptions {
            priority: PRIORITY,
            handle: handle(pins),
            classid: None,
        });
        let attached = program.attach_with_options(&interface, TcAttachType::Ingress, options);
        leave(attached.and_then(|id| program.take_link(id)).map_err(failed)?);
    }
    Ok(bpffs::prepare(&placed.path(pins))?)
}

/// Puts the program where our filter is. `false`: the interface or the filter is gone.
pub fn replace(object: &mut Ebpf, pins: &Path, place: Place) -> Result<bool, AttachError> {
    let Some(interface) = existing(place)? else {
        return Ok(false);
    };
    let program = object::get(object, place.program)?;
    let replaced = filter(pins, &interface)
        .and_then(|filter| program.attach_to_link(filter))
        .and_then(|id| program.take_link(id));
    match replaced {
        Ok(link) => leave(link),
        Err(error) if is_gone(&error) => return Ok(false),
        Err(source) => {
            return Err(AttachError::Attach {
                program: place.program.name(),
                interface: interface.into(),
                source,
            });
        }
    }
    Ok(true)
}

/// Takes the program from its place; an interface or filter that is gone is fine.
pub fn detach(pins: &Path, placed: Placed) -> Result<(), AttachError> {
    let place = placed.place;
    if let Some(interface) = existing(place)? {
        match filter(pins, &interface).and_then(Link::detach) {
            Err(source) if !is_gone(&source) => {
                return Err(AttachError::Detach {
                    program: place.program.name(),
                    interface: interface.into(),
                    source,
                });
            }
            _ => {}
        }
    }
    bpffs::remove_directory(&placed.path(pins))?;
    // As layouts 1 and 2 named it.
    let older = format!("link_{}_{}", place.program.name(), place.ifindex);
    let older = pins.join(older);
    if older.is_dir() {
        bpffs::remove_directory(&older)?;
    }
    Ok(())
}

/// Name of the interface, unless it is gone.
fn existing(place: Place) -> Result<Option<String>, AttachError> {
    match device::name(place.ifindex) {
        Ok(name) => Ok(Some(name)),
        Err(DeviceError::Name { source, .. }) if source.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// aya detaches a filter when its link is dropped; this one stays until somebody means it.
fn leave(link: SchedClassifierLink) {
    std::mem::forget(link);
}

/// No such filter (ENOENT), no clsact qdisc (EINVAL), or no such interface (ENODEV).
fn is_gone(error: &ProgramError) -> bool {
    let number = match error {
        ProgramError::NetlinkError(error) | ProgramError::TcError(TcError::NetlinkError(error)) => {
            error.raw_os_error()
        }
        ProgramError::TcError(TcError::IoError(error)) => error.raw_os_error(),
        _ => None,
    };
    matches!(number, Some(libc::ENOENT | libc::EINVAL | libc::ENODEV))
}

fn filter(pins: &Path, interface: &str) -> Result<SchedClassifierLink, ProgramError> {
    SchedClassifierLink::attached(interface, TcAttachType::Ingress, PRIORITY, handle(pins), None)
        .map_err(|error| TcError::IoError(error).into())
}
