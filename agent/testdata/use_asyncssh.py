"""Lists, signs, adds with constraints, removes and locks, with asyncssh."""
import asyncio
import sys

import asyncssh


async def main():
    async with asyncssh.connect_agent() as agent:
        keys = await agent.get_keys()
        assert len(keys) == 3, keys
        for key in keys:
            key.set_sig_algorithm(key.sig_algorithms[0])
            signature = await key.sign_async(b"what is to be signed")
            public = asyncssh.import_public_key(key.export_public_key("openssh")) if hasattr(key, "export_public_key") else None
            assert signature and (public is None or public.verify(b"what is to be signed", signature)), key

        private = asyncssh.read_private_key(sys.argv[1])
        await agent.add_keys([private], lifetime=1000, confirm=True)
        added = [k for k in await agent.get_keys() if k.public_data == private.public_data]
        assert len(added) == 1 and added[0].get_comment() == "from python", added
        await added[0].sign_async(b"x")

        await agent.lock("secret")
        assert list(await agent.get_keys()) == []
        await agent.unlock("secret")
        assert len(await agent.get_keys()) == 4

        await agent.remove_keys(added)
        assert len(await agent.get_keys()) == 3
        await agent.add_keys([private], confirm=True)
    print("all is well")


asyncio.run(main())
