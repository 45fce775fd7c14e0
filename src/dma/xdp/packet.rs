//! Packets as slices.

// UNSAFETY: lends parts of a buffer that it does not borrow.
#![expect(unsafe_code, reason = "makes slices of frames, see UNSAFETY above")]

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::slice;

use super::frames::State;
use super::live::Live;
use super::ring::{self, Descriptor};

/// A packet that was received, whole, from the first byte of its Ethernet header on. Derefs to its bytes, in
/// the frame where it lies. Dropped, it is wiped, and its frame can receive again.
///
/// One that is leaked (`mem::forget`) takes a frame out of use until the socket is dropped.
///
/// # Invariants
///
/// 1. `frame` is `Held` by this value, and `start + len` is at most a frame.
pub struct Packet<'a> {
    live: &'a Live,
    frame: u32,
    start: u32,
    len: u32,
}

impl<'a> Packet<'a> {
    /// Takes over what the ring says. Ends the process if that cannot be: no frame of ours, or one that was not the
    /// kernel's to fill.
    pub(super) fn new(live: &'a Live, descriptor: Descriptor) -> Self {
        let place = live.frames.locate(descriptor.start, descriptor.len);
        let Some((frame, start)) = place.filter(|(frame, _)| live.frames.state(*frame) == State::Filling)
        else {
            ring::corrupted()
        };
        live.frames.set(frame, State::Held);
        Self { live, frame, start, len: descriptor.len }
    }
}

impl Deref for Packet<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.live.frames.address(self.frame, self.start);
        // SAFETY: within the frame, and this value's alone (invariant 1, `Frames` 1 and 2): the kernel writes to frames
        // of the fill ring only. The memory outlives `live`.
        unsafe { slice::from_raw_parts(start.as_ptr(), usize::try_from(self.len).unwrap_or(0)) }
    }
}

impl DerefMut for Packet<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let start = self.live.frames.address(self.frame, self.start);
        // SAFETY: as for `deref`; `&mut self` keeps everybody else out.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), usize::try_from(self.len).unwrap_or(0)) }
    }
}

impl Drop for Packet<'_> {
    fn drop(&mut self) {
        if self.live.is_here() {
            self.live.refill(self.frame, self.start.saturating_add(self.len));
        }
    }
}

/// A packet to be sent, of the size that it was [reserved](super::XdpSocket::reserve) with: zeros at first
/// under [`Wipe::OnReturn`](super::Wipe::OnReturn), unless the buffer came with something in it. Derefs to its bytes.
/// Dropped without [`submit`](Self::submit) it is not sent.
///
/// # Invariants
///
/// 1. `frame` is `Held` by this value, and `len` is at most a frame.
pub struct Frame<'a> {
    live: &'a Live,
    frame: u32,
    len: u32,
}

impl<'a> Frame<'a> {
    pub(super) const fn new(live: &'a Live, frame: u32, len: u32) -> Self {
        Self { live, frame, len }
    }

    /// Queues it: [`XdpSocket::transmit`](super::XdpSocket::transmit) sends it, with all others.
    pub fn submit(self) {
        let frame = ManuallyDrop::new(self);
        if frame.live.is_here() {
            frame.live.frames.set(frame.frame, State::Sending(frame.len));
            let start = frame.live.frames.offset(frame.frame);
            frame.live.rings.transmit.put(Descriptor { start, len: frame.len, options: 0 });
        }
    }
}

impl Deref for Frame<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.live.frames.address(self.frame, 0);
        // SAFETY: within the frame, and this value's alone (invariant 1, `Frames` 1 and 2): the kernel writes to frames
        // of the fill ring only. The memory outlives `live`.
        unsafe { slice::from_raw_parts(start.as_ptr(), usize::try_from(self.len).unwrap_or(0)) }
    }
}

impl DerefMut for Frame<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let start = self.live.frames.address(self.frame, 0);
        // SAFETY: as for `deref`; `&mut self` keeps everybody else out.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), usize::try_from(self.len).unwrap_or(0)) }
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        if self.live.is_here() {
            self.live.give_back(self.frame, self.len);
        }
    }
}

/// Prints no byte.
impl fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Prints no byte.
impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("len", &self.len).finish_non_exhaustive()
    }
}
