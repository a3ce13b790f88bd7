"""What the system itself says to a person: apologies and honest refusals.

Said in the person's language, guessed from what was written and, where that says
nothing, from the country of the phone number. An agent's replies do not pass here.
"""

from __future__ import annotations

import re

#: Words that are frequent in one of the languages and absent from the others.
_MARKS = {
    "pt": {"não", "você", "oi", "olá", "obrigado", "obrigada", "quero", "meu", "minha", "uma", "com", "qual", "é", "eu",
           "bom", "boa", "dia", "tarde", "noite", "preciso", "vocês", "isso", "meus", "um", "do", "da"},
    "en": {"the", "hello", "hi", "is", "are", "what", "my", "you", "thanks", "please", "want", "need", "and", "i",
           "name", "how", "can", "do"},
    "es": {"hola", "gracias", "quiero", "necesito", "usted", "buenos", "buenas", "el", "los", "las", "qué", "cómo",
           "mi", "una", "y", "es", "está", "por", "favor"},
}  # fmt: skip
_COUNTRIES = {"1": "en", "44": "en", "34": "es", "52": "es", "54": "es", "56": "es", "57": "es", "51": "es"}

APOLOGY = {
    "pt": "Desculpe, não consegui responder agora por um problema nosso. Sua mensagem ficou registrada.",
    "en": "Sorry, I could not answer just now because of a problem on our side. Your message has been kept.",
    "es": "Lo siento, no pude responder ahora por un problema nuestro. Tu mensaje quedó registrado.",
}
WAITING = {
    "pt": "Estamos com um problema por aqui. Sua mensagem está guardada e respondo assim que der.",
    "en": "We are having a problem on our side. Your message is safe, and I will answer as soon as I can.",
    "es": "Tenemos un problema por aquí. Tu mensaje está guardado y respondo en cuanto pueda.",
}
TOO_MANY = {
    "pt": "Você enviou muitas mensagens de uma vez e algumas não couberam. Espere as respostas e envie de novo, "
    "por favor.",
    "en": "You sent very many messages at once and some did not fit. Please wait for the answers, then send them "
    "again.",
    "es": "Enviaste muchos mensajes a la vez y algunos no cupieron. Espera las respuestas y envíalos de nuevo, "
    "por favor.",
}
UNREADABLE = {
    "pt": "Ainda não consigo ler esse tipo de mensagem. Pode escrever em texto, por favor?",
    "en": "I cannot read this kind of message yet. Could you write it as text, please?",
    "es": "Todavía no puedo leer este tipo de mensaje. ¿Puedes escribirlo en texto, por favor?",
}
INAUDIBLE = {
    "pt": "Não consigo ouvir este áudio por aqui. Pode escrever em texto, por favor?",
    "en": "I cannot listen to this audio here. Could you write it as text, please?",
    "es": "No puedo escuchar este audio por aquí. ¿Puedes escribirlo en texto, por favor?",
}
UNSEEN = {
    "pt": "Não consigo ver esta imagem por aqui. Pode me contar em texto o que há nela, por favor?",
    "en": "I cannot see this image here. Could you tell me in text what it shows, please?",
    "es": "No puedo ver esta imagen por aquí. ¿Puedes contarme en texto qué muestra, por favor?",
}
REFUSED = {
    "pt": "Desculpe, não posso ajudar com isso por aqui. Posso ajudar com outra coisa?",
    "en": "Sorry, I cannot help with that here. Is there something else I can help with?",
    "es": "Lo siento, no puedo ayudar con eso por aquí. ¿Puedo ayudar con otra cosa?",
}
#: What people read of us that no agent said.
SYSTEM_TEXTS = frozenset(
    text for texts in (APOLOGY, WAITING, TOO_MANY, UNREADABLE, INAUDIBLE, UNSEEN, REFUSED) for text in texts.values()
)
#: Above a list of choices that has no text of its own, and on the button that opens it.
PICK = {"pt": "Escolha uma opção:", "en": "Choose an option:", "es": "Elige una opción:"}
OPTIONS = {"pt": "Ver opções", "en": "See options", "es": "Ver opciones"}


def guess(text: str, phone: str = "") -> str:
    """Return ``pt``, ``en`` or ``es``; Portuguese where nothing speaks for another."""
    words = set(re.findall(r"\w+", text.lower()))
    votes = {language: len(words & marks) for language, marks in _MARKS.items()}
    best = max(votes, key=lambda language: votes[language])
    if votes[best]:
        return best
    return next((_COUNTRIES[phone[:n]] for n in (2, 1) if phone[:n] in _COUNTRIES), "pt")
