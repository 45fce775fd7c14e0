//! A packet does not outlive its socket.

use oubliette::DmaBuffer;
use oubliette::dma::xdp::{Attach, FrameSize, Interface, Umem, XdpOptions, XdpSocket};

fn main() -> Result<(), oubliette::Error> {
    let interface = Interface::attach("eth0", Attach::Generic)?;
    let umem = Umem::new(DmaBuffer::new(1 << 16)?, FrameSize::Bytes2048);
    let socket = XdpSocket::bind(umem, &interface, 0, XdpOptions::new())?;
    let packet = socket.receive();
    drop(socket);
    drop(packet);
    Ok(())
}
