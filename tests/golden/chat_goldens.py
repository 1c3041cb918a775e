def write_chat_goldens(here):
    pass
