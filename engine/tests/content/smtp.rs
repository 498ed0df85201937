//! A mail server that keeps what it is given, and refuses what asks for it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A message with this in it is refused.
pub const REFUSED: &str = "refuse-this-mail";

pub struct Smtp {
    pub port: u16,
    pub mails: Arc<Mutex<Vec<String>>>,
}

impl Smtp {
    /// Serves until the process ends.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, mails) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<String>>>::default());
        let kept = Arc::clone(&mails);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                // An error is the other side going away.
                std::thread::spawn(move || drop(serve(stream, &kept)));
            }
        });
        Self { port, mails }
    }
}

fn serve(mut stream: TcpStream, kept: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    stream.write_all(b"220 sink\r\n")?;
    while let Some(line) = lines.next().transpose()? {
        let answer = match line.split(' ').next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "DATA" => {
                stream.write_all(b"354 go on\r\n")?;
                let mut mail = String::new();
                for line in lines.by_ref() {
                    let line = line?;
                    if line == "." {
                        break;
                    }
                    mail.push_str(&line);
                    mail.push('\n');
                }
                if mail.contains(REFUSED) {
                    "554 no"
                } else {
                    kept.lock().unwrap().push(mail);
                    "250 kept"
                }
            }
            "QUIT" => return stream.write_all(b"221 bye\r\n"),
            _ => "250 ok",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes())?;
    }
    Ok(())
}
