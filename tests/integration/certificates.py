"""Certificates for tests, by the openssl program."""

import subprocess


def make(folder, name, ca, subject, alternative):
    """NAME.key and NAME.pem in `folder`, signed by CA there (None: by itself, as an authority)."""
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")
    openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={subject}", "-out", f"{name}.csr")
    (folder / f"{name}.ext").write_text(
        f"subjectAltName={alternative}\n" if ca else "basicConstraints=critical,CA:TRUE\n")
    signer = ["-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial"] if ca else ["-key", f"{name}.key"]
    openssl("x509", "-req", "-in", f"{name}.csr", "-days", "2", "-extfile", f"{name}.ext", *signer, "-out", f"{name}.pem")
