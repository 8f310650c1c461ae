//! Programs on interfaces of kernels without tcx (before 6.6): filters of a clsact qdisc. They outlive the agent because
//! nobody detaches them; an empty directory beside the pinned maps notes each, since a filter cannot be pinned.

use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, TcAttachType};

use crate::io::attach::{AttachError, Place};
use crate::io::bpffs;
use crate::io::device;
use crate::io::object;

/// Ours on every interface: `tc filter show` names them `pref 1 handle 0x1`.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// Puts the program in its place; a filter of ours that is there is replaced in one step.
pub fn attach(object: &mut Ebpf, pins: &Path, place: Place) -> Result<(), AttachError> {
    let interface = device::name(place.ifindex)?;
    let failed = |source| AttachError::Attach {
        program: place.program.name(),
        interface: interface.clone(),
        source,
    };
    match qdisc_add_clsact(&interface) {
        Ok(()) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(failed(error.into())),
    }
    let program = object::get(object, place.program)?;
    let replaced = filter(&interface).and_then(|filter| program.attach_to_link(filter));
    let id = match replaced {
        Ok(id) => id,
        Err(ProgramError::TcError(TcError::NetlinkError(error)))
            if error.raw_os_error() == Some(libc::ENOENT) =>
        {
            let options = NlOptions {
                priority: PRIORITY,
                handle: HANDLE,
                classid: None,
            };
            let attached = TcAttachOptions::Netlink(options);
            program
                .attach_with_options(&interface, TcAttachType::Ingress, attached)
                .map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    // aya detaches a filter when its link is dropped; this one stays until somebody means it.
    std::mem::forget(program.take_link(id).map_err(failed)?);
    Ok(bpffs::prepare(&note(pins, place))?)
}

/// Takes the program from its place; an interface or filter that is gone is fine.
pub fn detach(pins: &Path, place: Place) -> Result<(), AttachError> {
    if let Ok(interface) = device::name(place.ifindex) {
        let failed = |source| AttachError::Attach {
            program: place.program.name(),
            interface: interface.clone(),
            source,
        };
        let gone = filter(&interface).and_then(aya::programs::links::Link::detach);
        match gone {
            Ok(()) => {}
            Err(ProgramError::NetlinkError(error)) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(bpffs::remove_directory(&note(pins, place))?)
}

fn filter(interface: &str) -> Result<SchedClassifierLink, ProgramError> {
    SchedClassifierLink::attached(interface, TcAttachType::Ingress, PRIORITY, HANDLE, None)
        .map_err(|error| TcError::IoError(error).into())
}

fn note(pins: &Path, place: Place) -> PathBuf {
    pins.join(place.file_name())
}
