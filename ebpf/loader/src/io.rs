//! The kernel, one file per side of it.

pub mod attach;
pub mod bpffs;
pub mod cgroup;
mod clsact;
pub mod device;
pub mod flows;
pub mod kernel;
mod link;
pub mod maps;
pub mod netns;
pub mod object;
pub mod raw_map;
pub mod test_run;

/// An error of aya with what caused it: its own words often stop at the name of the system call.
fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::programs::ProgramError;
    use aya::sys::SyscallError;

    #[test]
    fn the_kernels_reason_is_told_once() {
        let error = ProgramError::SyscallError(SyscallError {
            call: "bpf_link_update",
            io_error: std::io::Error::from_raw_os_error(libc::ENOLINK),
        });
        let text = whole(&error);
        assert_eq!(text.matches("Link has been severed").count(), 1, "{text}");
        assert!(text.contains("bpf_link_update"), "{text}");
    }
}
