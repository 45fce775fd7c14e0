//! Random bytes: `getrandom(2)`.

use super::check_count;
use crate::os::{Errno, Result};

/// `getrandom(out, len, 0)`, getrandom(2), Linux 3.17. By number, since the C library's function may draw
/// from a generator in user space (glibc 2.41 with the vDSO), whose state would be one more secret.
pub(in crate::os) fn fill_random(out: &mut [u8]) -> Result<()> {
    let mut rest = out;
    while !rest.is_empty() {
        // SAFETY: the kernel writes at most `rest.len()` bytes to `rest`, which is ours to write.
        let code = unsafe { libc::syscall(libc::SYS_getrandom, rest.as_mut_ptr(), rest.len(), 0_u32) };
        match check_count(code) {
            // More than 256 bytes may come in parts.
            Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
