from tests import made_up

made_up.write()
