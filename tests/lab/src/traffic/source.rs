//! A real encoder: ffmpeg, sending an MPEG transport stream at a constant rate.

use std::{net::Ipv4Addr, process::Command};

use super::GroupPort;
use crate::{LabError, Namespace, Process};

/// What the source sends.
#[derive(Clone, Copy, Debug)]
pub struct SourceConfig {
    /// To where.
    pub stream: GroupPort,
    /// From which of its addresses.
    pub local: Ipv4Addr,
    /// Rate of the transport stream, in bits per second.
    pub bit_rate: u32,
    /// Time to live of its packets.
    pub ttl: u8,
}

/// A running ffmpeg.
#[derive(Debug)]
pub struct MpegTsSource {
    /// Its process.
    pub process: Process,
}

impl MpegTsSource {
    /// Transport packets in a datagram: seven, as everybody does.
    pub const PAYLOAD: usize = 7 * 188;

    /// Starts to encode and send. The picture is cheap to encode: the stream matters, not its looks.
    ///
    /// # Errors
    /// If ffmpeg is not installed.
    pub fn start(namespace: &Namespace, config: SourceConfig) -> Result<Self, LabError> {
        // Nearly all of the rate is picture, so that few datagrams are mere padding and alike.
        let video = (config.bit_rate - config.bit_rate / 8).to_string();
        let rate = config.bit_rate.to_string();
        let url = format!(
            "udp://{}?pkt_size={}&ttl={}&localaddr={}&bitrate={rate}",
            config.stream.socket_addr(),
            Self::PAYLOAD,
            config.ttl,
            config.local
        );
        let mut command = Command::new("ffmpeg");
        command
            .args(["-hide_banner", "-nostdin", "-loglevel", "warning", "-threads", "1", "-re"])
            .args(["-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25", "-re"])
            .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"])
            .args(["-c:v", "mpeg2video", "-threads", "1", "-g", "12", "-b:v", &video])
            .args(["-minrate", &video, "-maxrate", &video, "-bufsize", "1400k"])
            .args(["-c:a", "mp2", "-b:a", "128k"])
            .args(["-f", "mpegts", "-muxrate", &rate, &url]);
        let process = namespace.spawn("ffmpeg", command)?;
        Ok(Self { process })
    }
}
