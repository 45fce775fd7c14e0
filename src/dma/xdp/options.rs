//! What a socket is asked to be.

/// How packets get into the memory of a socket, and out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transfer {
    /// The kernel copies them: with every interface.
    Copy,
    /// The device itself reads and writes the frames. Few drivers can.
    ZeroCopy,
}

/// When the bytes of packets are turned to zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wipe {
    /// When a packet is dropped, or was sent: before its frame is used again.
    OnReturn,
    /// When the buffer is dropped. Until then the next user of a frame can find what the last one left.
    AtEnd,
}

/// What a socket is asked to be: by default `Transfer::Copy` and `Wipe::OnReturn`, with half of the frames to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it makes nothing by itself"]
pub struct XdpOptions {
    pub(super) transfer: Transfer,
    pub(super) wipe: Wipe,
    pub(super) receive_frames: Option<u32>,
}

impl XdpOptions {
    /// The defaults.
    pub const fn new() -> Self {
        Self { transfer: Transfer::Copy, wipe: Wipe::OnReturn, receive_frames: None }
    }

    /// Chooses how packets get into memory. What the interface cannot do is refused, never replaced.
    pub const fn transfer(self, transfer: Transfer) -> Self {
        Self { transfer, ..self }
    }

    /// Chooses when they are wiped.
    pub const fn wipe(self, wipe: Wipe) -> Self {
        Self { wipe, ..self }
    }

    /// How many frames are to receive; the others are to send. All of them if there are fewer.
    pub const fn receive_frames(self, frames: u32) -> Self {
        Self { receive_frames: Some(frames), ..self }
    }
}

impl Default for XdpOptions {
    fn default() -> Self {
        Self::new()
    }
}
