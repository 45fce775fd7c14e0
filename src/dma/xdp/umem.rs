//! The memory of a socket.

// UNSAFETY: has memory registered by address.
#![expect(unsafe_code, reason = "forwards the address of a buffer to the kernel, see UNSAFETY above")]

use core::ptr::NonNull;

use crate::DmaBuffer;
use crate::os::Errno;
use crate::os::xdp::Socket;

/// A buffer as frames for packets, not yet in use. Nobody sees its bytes from here on: [`into_buffer`](Self::into_buffer)
/// gives it back.
#[derive(Debug)]
pub struct Umem {
    buffer: DmaBuffer,
    frame_size: FrameSize,
}

/// The size of a frame: the most that a packet can have, and 256 bytes that the kernel keeps before those received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameSize {
    /// 2,048 bytes: packets of up to 1,792, enough for Ethernet.
    Bytes2048,
    /// 4,096 bytes: packets of up to 3,840.
    Bytes4096,
}

impl FrameSize {
    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        1 << self.shift()
    }

    pub(super) const fn shift(self) -> u32 {
        match self {
            Self::Bytes2048 => 11,
            Self::Bytes4096 => 12,
        }
    }
}

impl Umem {
    /// Divides all pages of a buffer into frames. What is in the buffer stays there: the first bytes of frames that are
    /// received into are overwritten, the others sent only if you write to them.
    #[must_use]
    pub const fn new(buffer: DmaBuffer, frame_size: FrameSize) -> Self {
        Self { buffer, frame_size }
    }

    /// How many frames there are.
    #[must_use]
    pub fn frames(&self) -> u32 {
        // A buffer is at most 1 GiB.
        u32::try_from(self.buffer.page_bytes() >> self.frame_size.shift()).unwrap_or(u32::MAX)
    }

    /// How large each is.
    #[must_use]
    pub const fn frame_size(&self) -> FrameSize {
        self.frame_size
    }

    /// The buffer, with what is in it.
    #[must_use]
    pub fn into_buffer(self) -> DmaBuffer {
        self.buffer
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.buffer.region().0
    }

    /// Makes it the memory of a socket. From the time that the socket is bound on, this value is moved into what ends
    /// the socket first.
    pub(super) fn register(&self, socket: &Socket) -> Result<(), Errno> {
        // SAFETY: a buffer is mapped, readable and writable. The kernel writes to frames that the fill ring names, once
        // the socket is bound; `Live` ends that before the buffer is touched again (`DmaBuffer` 3).
        unsafe { socket.register(self.start(), self.bytes(), self.frame_size.bytes()) }
    }

    /// Turns all of it to zeros.
    pub(super) fn wipe(&mut self) {
        self.buffer.wipe();
    }

    /// All frames together.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.region().1
    }
}
