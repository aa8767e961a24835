//! Ways to others over sockets.

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

use suite::fixtures::sandbox::{bash, bash_with, can_confine};

use super::Place;

#[tokio::test]
async fn there_is_no_way_to_a_socket() {
    if !can_confine("network") {
        return;
    }
    let place = Place::new();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    // In the workspace, where its file can be reached.
    let unix = UnixListener::bind(place.workspace().join("stream")).unwrap();
    let datagram = UnixDatagram::bind(place.workspace().join("datagram")).unwrap();
    let name = format!("teamster-test-{}", std::process::id());
    let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let (tcp_port, udp_port) = (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port());
    for program in [
        format!("from socket import *; s = socket(); s.connect(('127.0.0.1', {tcp_port}))"),
        format!("from socket import *; s = socket(AF_INET6); s.connect(('::ffff:127.0.0.1', {tcp_port}))"),
        format!("from socket import *; socket(AF_INET, SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {udp_port}))"),
        "from socket import *; socket(); s.bind(('127.0.0.1', 0)); s.listen()".to_owned(),
        "from socket import *; socket(AF_UNIX).connect('stream')".to_owned(),
        format!("from socket import *; socket(AF_UNIX).connect('\\0{name}')"),
        "from socket import *; socket(AF_UNIX, SOCK_DGRAM).sendto(b'x', 'datagram')".to_owned(),
        // A pair that could be connected anew.
        "from socket import *; socketpair(AF_UNIX, SOCK_DGRAM)[0].sendto(b'x', 'datagram')".to_owned(),
        "from socket import *; socketpair(AF_UNIX, SOCK_STREAM)[0].connect('stream')".to_owned(),
        "from socket import *; socket(AF_NETLINK, SOCK_RAW)".to_owned(),
        "from socket import *; socket(AF_PACKET, SOCK_RAW)".to_owned(),
        // io_uring_setup, which could make one behind the filter.
        "import ctypes; l = ctypes.CDLL(None, use_errno=True)\n\
         if l.syscall(425, 4, ctypes.create_string_buffer(120)) < 0: raise OSError(ctypes.get_errno(), 'refused')"
            .to_owned(),
    ] {
        place.attempt(&bash(), &format!("{program}\nprint('out')")).await;
    }
    let said = place.output(&bash(), &format!("echo x > /dev/tcp/127.0.0.1/{tcp_port}")).await;
    assert!(said.starts_with("Exit code"), "{said}");
    tcp.set_nonblocking(true).unwrap();
    udp.set_nonblocking(true).unwrap();
    unix.set_nonblocking(true).unwrap();
    datagram.set_nonblocking(true).unwrap();
    hidden.set_nonblocking(true).unwrap();
    let heard = [
        tcp.accept().map(drop).unwrap_err(),
        udp.recv_from(&mut [0; 8]).map(drop).unwrap_err(),
        unix.accept().map(drop).unwrap_err(),
        datagram.recv_from(&mut [0; 8]).map(drop).unwrap_err(),
        hidden.accept().map(drop).unwrap_err(),
    ];
    assert!(heard.iter().all(|error| error.kind() == ErrorKind::WouldBlock), "{heard:?}");
}

#[tokio::test]
async fn who_may_use_the_network_reaches_it() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let open = bash_with(|policy| policy.network = true);
    place.ok(&open, &format!("echo hello > /dev/tcp/127.0.0.1/{port}")).await;
    let (mut stream, _) = listener.accept().unwrap();
    let mut heard = String::new();
    std::io::Read::read_to_string(&mut stream, &mut heard).unwrap();
    assert_eq!(heard, "hello\n");
}
