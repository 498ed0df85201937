"""A real SMTP server (aiosmtpd) for tests: prints its port, then every mail that it takes as one line of JSON.

usage: smtp_server.py [CERTIFICATE KEY USER PASSWORD]   (with them: STARTTLS and a log-in are needed)
"""
import asyncio
import email
import email.policy
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult


class Handler:
    async def handle_DATA(self, server, session, envelope):
        if any("refused" in to for to in envelope.rcpt_tos):
            return "554 we do not like this one"
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        form = {kind: message.get_body((kind,)).get_content() for kind in ("plain", "html") if message.get_body((kind,))}
        mail = {
            **form,
            "subject": str(message["subject"]),
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "data": envelope.content.decode("utf-8", "replace"),
            "tls": session.ssl is not None,
            "user": getattr(session, "auth_data", None) and session.auth_data.login.decode(),
        }
        print(json.dumps(mail), flush=True)
        return "250 OK"


def protected(certificate, key, user, password):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def authenticate(server, session, envelope, mechanism, data):
        is_right = (data.login, data.password) == (user.encode(), password.encode())
        return AuthResult(success=is_right, handled=is_right, auth_data=data)

    return {
        "tls_context": context,
        "require_starttls": True,
        "authenticator": authenticate,
        "auth_required": True,
    }


async def main():
    options = protected(*sys.argv[1:5]) if len(sys.argv) > 4 else {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Handler(), enable_SMTPUTF8=True, **options), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
