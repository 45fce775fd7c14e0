//! Memory is bound to one socket only.

use oubliette::DmaBuffer;
use oubliette::dma::xdp::{Attach, FrameSize, Interface, Umem, XdpOptions, XdpSocket};

fn main() -> Result<(), oubliette::Error> {
    let interface = Interface::attach("eth0", Attach::Generic)?;
    let umem = Umem::new(DmaBuffer::new(1 << 16)?, FrameSize::Bytes2048);
    let first = XdpSocket::bind(umem, &interface, 0, XdpOptions::new())?;
    let second = XdpSocket::bind(umem, &interface, 1, XdpOptions::new())?;
    drop((first, second));
    Ok(())
}
