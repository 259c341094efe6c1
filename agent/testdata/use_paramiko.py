"""Lists the agent's keys and signs with each, as paramiko does to log in."""
import paramiko

agent = paramiko.Agent()
keys = agent.get_keys()
names = sorted(k.get_name() for k in keys)
assert names == ["ecdsa-sha2-nistp256", "ssh-ed25519", "ssh-rsa"], names
for key in keys:
    data = b"what is to be signed"
    algorithms = [None]
    if key.get_name() == "ssh-rsa":
        algorithms = ["rsa-sha2-256", "rsa-sha2-512", "ssh-rsa"]
    for algorithm in algorithms:
        blob = key.sign_ssh_data(data, algorithm)
        message = paramiko.Message(blob)
        public = {
            "ssh-ed25519": paramiko.Ed25519Key,
            "ssh-rsa": paramiko.RSAKey,
            "ecdsa-sha2-nistp256": paramiko.ECDSAKey,
        }[key.get_name()](data=key.asbytes())
        assert public.verify_ssh_sig(data, message), (key.get_name(), algorithm)
print("all is well")
