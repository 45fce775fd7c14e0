//! The kinds of calls of the contract, by which tests name the one that is to fail.

/// A kind of call, for fault injection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "fault-injection", non_exhaustive)]
#[cfg_attr(not(feature = "fault-injection"), expect(unreachable_pub, reason = "exported by `fault`"))]
pub enum Call {
    /// Reserving addresses.
    Reserve,
    /// Giving addresses back.
    Release,
    /// Changing the access to pages.
    Protect,
    /// Installing guards that cost no mapping.
    InstallGuard,
    /// Locking pages in RAM.
    Lock,
    /// Unlocking them.
    Unlock,
    /// Telling the kernel how to treat pages.
    Advise,
    /// Giving memory back while keeping the addresses.
    Discard,
    /// Asking which pages are in RAM.
    Resident,
    /// Reading random bytes.
    Random,
    /// Making a table of pins.
    RingSetup,
    /// Pinning a range.
    RingRegister,
    /// Unpinning a range.
    RingUnregister,
    /// Making hidden memory.
    Hide,
    /// Giving it back.
    Unhide,
    /// Submitting transfers, and waiting for one.
    #[allow(dead_code, reason = "for transfers, which are a feature")]
    RingEnter,
    /// Taking devices behind an IOMMU.
    #[cfg_attr(not(feature = "vfio"), allow(dead_code, reason = "for devices, which are a feature"))]
    VfioOpen,
    /// Letting such devices reach memory.
    #[cfg_attr(not(feature = "vfio"), allow(dead_code, reason = "for devices, which are a feature"))]
    VfioMap,
    /// Ending that.
    #[cfg_attr(not(feature = "vfio"), allow(dead_code, reason = "for devices, which are a feature"))]
    VfioUnmap,
    /// Registers of such a device, and its reset.
    #[cfg_attr(not(feature = "vfio"), allow(dead_code, reason = "for devices, which are a feature"))]
    VfioDevice,
    /// Taking a protection key.
    KeyNew,
    /// Giving a protection key to pages.
    KeyProtect,
    /// Making and setting up an AF_XDP socket.
    #[cfg_attr(not(feature = "xdp"), allow(dead_code, reason = "for packets, which are a feature"))]
    XdpSocket,
    /// Binding it to a queue.
    #[cfg_attr(not(feature = "xdp"), allow(dead_code, reason = "for packets, which are a feature"))]
    XdpBind,
    /// Having it send, or waiting for packets.
    #[cfg_attr(not(feature = "xdp"), allow(dead_code, reason = "for packets, which are a feature"))]
    XdpWake,
    /// What concerns the program that hands it packets.
    #[cfg_attr(not(feature = "xdp"), allow(dead_code, reason = "for packets, which are a feature"))]
    XdpProgram,
    /// Moving pages to other addresses.
    MovePages,
}

#[cfg(any(test, feature = "fault-injection"))]
impl Call {
    /// Every kind, each at its [`index`](Self::index).
    pub(crate) const ALL: [Self; 27] = [
        Self::Reserve,
        Self::Release,
        Self::Protect,
        Self::InstallGuard,
        Self::Lock,
        Self::Unlock,
        Self::Advise,
        Self::Discard,
        Self::Resident,
        Self::Random,
        Self::RingSetup,
        Self::RingRegister,
        Self::RingUnregister,
        Self::Hide,
        Self::Unhide,
        Self::RingEnter,
        Self::VfioOpen,
        Self::VfioMap,
        Self::VfioUnmap,
        Self::VfioDevice,
        Self::KeyNew,
        Self::KeyProtect,
        Self::XdpSocket,
        Self::XdpBind,
        Self::XdpWake,
        Self::XdpProgram,
        Self::MovePages,
    ];

    /// Its place in [`ALL`](Self::ALL).
    #[expect(clippy::as_conversions, reason = "the discriminant of a fieldless enum")]
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}
