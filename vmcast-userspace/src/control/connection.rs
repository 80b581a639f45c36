//! One connection to the control socket.

use std::io;

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};
use tracing::debug;
use vmcast_api::{ErrorReply, MAX_REQUEST_BYTES, Response, decode, encode};

use super::{Asker, IDLE_TIMEOUT, WRITE_TIMEOUT};

/// Answers question after question until the client ends, errs or falls silent.
pub(super) async fn serve(stream: UnixStream, asker: Asker) {
    if let Err(error) = converse(stream, asker).await {
        debug!(%error, "control socket: connection lost");
    }
}

async fn converse(stream: UnixStream, asker: Asker) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let Ok(read) = timeout(IDLE_TIMEOUT, read_line(&mut stream, &mut line)).await else {
            return Ok(());
        };
        let (response, last) = match read? {
            Line::End => return Ok(()),
            Line::TooLong => {
                (Response::error(format!("a request is longer than {MAX_REQUEST_BYTES} bytes")), true)
            }
            Line::Complete => match decode(&line) {
                Ok(request) => (asker.ask(request).await, false),
                Err(error) => (bad_request(&error), false),
            },
        };
        timeout(WRITE_TIMEOUT, stream.get_mut().write_all(&encode(&response))).await??;
        if last {
            return Ok(());
        }
    }
}

fn bad_request(error: &vmcast_api::DecodeError) -> Response {
    Response::Error(ErrorReply {
        error: error.to_string(),
        hint: Some("one JSON object per line, as {\"v\":1,\"request\":\"status\"}".to_owned()),
    })
}

enum Line {
    Complete,
    TooLong,
    End,
}

/// Reads up to a line feed, never keeping more than a request may have.
async fn read_line<R: AsyncBufRead + Unpin>(reader: &mut R, line: &mut Vec<u8>) -> io::Result<Line> {
    loop {
        let chunk = reader.fill_buf().await?;
        if chunk.is_empty() {
            // What an ending client left without its line feed is no request.
            return Ok(Line::End);
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(chunk.len(), |at| at + 1);
        if line.len() + taken > MAX_REQUEST_BYTES {
            return Ok(Line::TooLong);
        }
        line.extend_from_slice(&chunk[..taken]);
        reader.consume(taken);
        if end.is_some() {
            return Ok(Line::Complete);
        }
    }
}
