//! The buffer cannot be touched while it is the memory of a socket.

use oubliette::DmaBuffer;
use oubliette::dma::xdp::{Attach, FrameSize, Interface, Umem, XdpOptions, XdpSocket};

fn main() -> Result<(), oubliette::Error> {
    let interface = Interface::attach("eth0", Attach::Generic)?;
    let mut buffer = DmaBuffer::new(1 << 16)?;
    let umem = Umem::new(buffer, FrameSize::Bytes2048);
    let socket = XdpSocket::bind(umem, &interface, 0, XdpOptions::new())?;
    buffer[0] = 1;
    drop(socket);
    Ok(())
}
